/* What a zygote and the spawner say to each other. */
#ifndef SP_SPAWNER_ZYGOTE_PROTO_H
#define SP_SPAWNER_ZYGOTE_PROTO_H

#include <stdint.h>

/* A zygote is a child like any other, with a guard, that also has a socket to
 * us. For a FORK it gets descriptors over that, and then
 *
 *   spawner ─ guard ─ zygote ─ M ─ X ─ W
 *
 * M ends at once, so that X, which no subreaper on that way claims, becomes a
 * child of the spawner. X executes `snakepit_spawner --adopt` and is thereby
 * the guard of W, the new child, which waits for it. The guard finds in its
 * socket what W is to be held by, settings and cgroup, and puts it into force
 * before it lets W go. From there on nothing tells W from a child that was
 * spawned; what becomes of its zygote is
 * nothing to it.
 *
 * To a zygote goes a datagram of one byte, SP_ZYGOTE_ASK, with the descriptors
 * of enum sp_zygote_fd. One at a time: each is answered by DONE. */
enum { SP_ZYGOTE_ASK = 'f' };

enum sp_zygote_fd {
  SP_ZYGOTE_CTL,     /* the guard's socket, see guard.h */
  SP_ZYGOTE_OUT,     /* stdout of the new child */
  SP_ZYGOTE_ERR,     /* and stderr */
  SP_ZYGOTE_REQUEST, /* a file: the message FORK */
  SP_ZYGOTE_GUARD,   /* the program to be the guard */
  SP_ZYGOTE_FDS
};

/* From a zygote, one datagram each: first READY or REFUSED. */
enum sp_zygote_says { SP_ZYGOTE_READY = 1, SP_ZYGOTE_REFUSED, SP_ZYGOTE_DONE };

typedef struct sp_zygote_word {
  uint32_t says;
  int32_t errnum; /* DONE: why there is no new process, 0 when there is one */
  char text[504]; /* REFUSED: why */
} sp_zygote_word;

#endif
