"""An adapter that never gets as far as being imported."""

import time

while True:
    time.sleep(1)
