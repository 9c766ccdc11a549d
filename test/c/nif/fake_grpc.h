/* The network between calls and those who answer them: see fake_grpc.c. */
#ifndef FAKE_GRPC_H
#define FAKE_GRPC_H

void fake_grpc_start(void);
/* Calls under way are abandoned. */
void fake_grpc_stop(void);

#endif
