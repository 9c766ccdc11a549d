/* Signs of life, both ways, which no tool can hold up. */
#include "link_impl.h"

#include <signal.h>

static const char SILENT[] = "the BEAM sends no heartbeats any more";

static void *probe(void *arg) {
  sp_link *link = arg;
  link->config.probe(link->config.user);
  pthread_mutex_lock(&link->lock);
  link->probe_since = 0;
  pthread_cond_broadcast(&link->messenger_gone);
  pthread_mutex_unlock(&link->lock);
  return NULL;
}

static void send_probe(sp_link *link) {
  pthread_t thread;
  sigset_t all, before;
  sigfillset(&all);
  pthread_sigmask(SIG_SETMASK, &all, &before);
  if (pthread_create(&thread, NULL, probe, link) == 0) {
    link->probe_since = sp_link_now();
    pthread_detach(thread);
  }
  pthread_sigmask(SIG_SETMASK, &before, NULL);
}

/* The watcher looks after it from now on. */
static void begin_to_listen(sp_link *link) {
  link->ping_look = sp_link_now() + link->ping_window;
  sp_link_ring(link->kick);
}

void sp_link_pinged(sp_link *link, uint64_t id) {
  uint8_t bytes[SP_FRAME_PONG_BYTES];
  uint64_t stuck = 0;
  link->pinged = true;
  if (link->ping_look == 0 && link->ping_window != 0)
    begin_to_listen(link);
  if (link->probe_since != 0)
    stuck = (uint64_t)(sp_link_now() - link->probe_since) / 1000000;
  else if (link->running != NULL && link->config.probe != NULL &&
           !link->closing)
    send_probe(link);
  for (size_t i = 0; i < sizeof bytes; i++)
    bytes[i] = (uint8_t)(stuck >> 8 * i);
  sp_link_owe(link, SP_FRAME_PONG, id, bytes, sizeof bytes);
}

int64_t sp_link_listen(sp_link *link) {
  if (link->ping_look == 0 || link->closing)
    return 0;
  int64_t now = sp_link_now();
  if (now < link->ping_look)
    return link->ping_look;
  /* One window for each look, however late it is: a process that was stopped
   * itself has not read what was sent meanwhile. */
  link->pings_missed = link->pinged ? 0 : link->pings_missed + 1;
  link->pinged = false;
  if (link->pings_missed >= link->pings_max) {
    sp_link_abandon_locked(link, 0, SILENT);
    return 0;
  }
  link->ping_look = now + link->ping_window;
  return link->ping_look;
}

void sp_link_expect_pings(sp_link *link, int timeout_ms, int max_missed) {
  pthread_mutex_lock(&link->lock);
  link->ping_window = (int64_t)timeout_ms * 1000000;
  link->pings_max = max_missed > 0 ? max_missed : 1;
  link->ping_look = 0;
  link->pings_missed = 0;
  if (link->pinged && link->ping_window != 0) /* one was answered already */
    begin_to_listen(link);
  pthread_mutex_unlock(&link->lock);
}
