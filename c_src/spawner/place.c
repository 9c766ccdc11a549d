/* Which processors a child of a pool gets. */
#include "apply.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#ifdef __linux__
#include <sched.h>
#endif
#ifdef SP_HWLOC
#include <hwloc.h>
#include <limits.h>
#endif

/* Processors in an order in which neighbours share the most: by hwloc that of
 * the machine's tree, without it their numbers. */
typedef struct row {
  unsigned count; /* 0 before it was looked for */
  unsigned cpus[SP_CPU_MAX];
} row;

static row all;

static void add_cpu(sp_settings *in, unsigned cpu) {
  in->cpus[cpu / 64] |= (uint64_t)1 << cpu % 64;
}

static bool may_use(unsigned cpu) {
#ifdef __linux__
  static cpu_set_t allowed;
  static bool asked;
  if (!asked && sched_getaffinity(0, sizeof allowed, &allowed) != 0)
    CPU_ZERO(&allowed);
  asked = true;
  return cpu < CPU_SETSIZE && CPU_ISSET(cpu, &allowed);
#else
  (void)cpu;
  return false;
#endif
}

#ifdef SP_HWLOC

static hwloc_topology_t machine;

static bool load_machine(void) {
  static bool tried;
  if (tried)
    return machine != NULL;
  tried = true;
  if (hwloc_topology_init(&machine) != 0) {
    machine = NULL;
    return false;
  }
  hwloc_bitmap_t mine = hwloc_bitmap_alloc();
  /* The part of the machine that this process may use, no more. */
  if (mine == NULL || hwloc_topology_load(machine) != 0 ||
      hwloc_get_cpubind(machine, mine, HWLOC_CPUBIND_PROCESS) != 0 ||
      hwloc_topology_restrict(machine, mine, 0) != 0) {
    hwloc_topology_destroy(machine);
    machine = NULL;
  }
  hwloc_bitmap_free(mine);
  return machine != NULL;
}

static void fill_row(void) {
  hwloc_obj_t unit = NULL;
  if (!load_machine())
    return;
  while ((unit = hwloc_get_next_obj_by_type(machine, HWLOC_OBJ_PU, unit)) !=
         NULL)
    if (unit->os_index < SP_CPU_MAX && all.count < SP_CPU_MAX)
      all.cpus[all.count++] = unit->os_index;
}

/* No part crosses a boundary of the machine, NUMA nodes included, that it need
 * not cross; so memory that the child touches first is near. */
static bool spread_by_tree(sp_settings *in) {
  if (!load_machine())
    return false;
  hwloc_obj_t root = hwloc_get_root_obj(machine);
  hwloc_bitmap_t *parts = calloc(in->of, sizeof(hwloc_bitmap_t));
  if (parts == NULL)
    return false;
  bool done = hwloc_distrib(machine, &root, 1, parts, in->of, INT_MAX, 0) == 0;
  int cpu = -1;
  while (done && (cpu = hwloc_bitmap_next(parts[in->share], cpu)) >= 0 &&
         cpu < SP_CPU_MAX)
    add_cpu(in, (unsigned)cpu);
  for (uint32_t i = 0; i < in->of; i++)
    hwloc_bitmap_free(parts[i]);
  free(parts);
  return done;
}

#else

static void fill_row(void) {}

static bool spread_by_tree(sp_settings *in) {
  (void)in;
  return false;
}

#endif

static void spread(sp_settings *in) {
  if (spread_by_tree(in))
    return;
  uint64_t from = (uint64_t)in->share * all.count / in->of;
  uint64_t to = ((uint64_t)in->share + 1) * all.count / in->of;
  do
    add_cpu(in, all.cpus[from]);
  while (++from < to);
}

static void compact(sp_settings *in) {
  uint64_t from = (uint64_t)in->share * in->of;
  for (uint64_t i = 0; i < in->of && i < all.count; i++)
    add_cpu(in, all.cpus[(from + i) % all.count]);
}

int sp_apply_place(sp_settings *in) {
  if (in->affinity != SP_AFFINITY_SPREAD && in->affinity != SP_AFFINITY_COMPACT)
    return 0;
  if (all.count == 0)
    fill_row();
  for (unsigned cpu = 0; all.count == 0 && cpu < SP_CPU_MAX; cpu++)
    if (may_use(cpu))
      all.cpus[all.count++] = cpu;
  if (all.count == 0)
    return EOPNOTSUPP;
  memset(in->cpus, 0, sizeof in->cpus);
  /* More children than there were to be share what there is. */
  if (in->affinity == SP_AFFINITY_SPREAD) {
    in->share %= in->of;
    spread(in);
  } else {
    compact(in);
  }
  in->affinity = SP_AFFINITY_LIST;
  return 0;
}
