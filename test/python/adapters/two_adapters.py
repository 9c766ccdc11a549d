from snakepit_bridge import BaseAdapter


class FirstAdapter(BaseAdapter):
    pass


class SecondAdapter(BaseAdapter):
    pass
