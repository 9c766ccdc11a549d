#include "settings.h"

#include <string.h>

/* A part of a setting's text. */
typedef struct span {
  const char *at;
  size_t len;
} span;

static const char *const resources[SP_RES_COUNT] = {
    "as",      "core",   "cpu",   "data", "fsize",
    "memlock", "nofile", "nproc", "stack"};

static bool is(span text, const char *word) {
  return text.len == strlen(word) && memcmp(text.at, word, text.len) == 0;
}

/* What stands before |sep|; |rest| becomes what is behind it. False, and
 * nothing is changed, when there is none. */
static bool split(span *rest, char sep, span *head) {
  const char *at = rest->len > 0 ? memchr(rest->at, sep, rest->len) : NULL;
  if (at == NULL)
    return false;
  head->at = rest->at;
  head->len = (size_t)(at - rest->at);
  rest->len -= head->len + 1;
  rest->at = at + 1;
  return true;
}

static bool digits(span text, unsigned base, uint64_t max, uint64_t *out) {
  uint64_t value = 0;
  if (text.len == 0)
    return false;
  for (size_t i = 0; i < text.len; i++) {
    if (text.at[i] < '0' || text.at[i] >= (char)('0' + (int)base))
      return false;
    uint64_t digit = (uint64_t)(text.at[i] - '0');
    if (value > (max - digit) / base)
      return false;
    value = value * base + digit;
  }
  *out = value;
  return true;
}

static bool number(span text, uint64_t max, uint64_t *out) {
  return digits(text, 10, max, out);
}

/* A number that may have K, M, G or T behind it, or "unlimited". */
static bool amount(span text, uint64_t *out) {
  static const char units[] = "KMGT";
  unsigned shift = 0;
  if (is(text, "unlimited")) {
    *out = SP_UNLIMITED;
    return true;
  }
  if (text.len > 1) {
    const char *unit = memchr(units, text.at[text.len - 1], sizeof units - 1);
    if (unit != NULL) {
      shift = 10 * (unsigned)(unit - units + 1);
      text.len--;
    }
  }
  if (!number(text, (SP_UNLIMITED - 1) >> shift, out))
    return false;
  *out <<= shift;
  return true;
}

static const char *put_limit(sp_settings *out, span value) {
  span name;
  span soft;
  sp_limit limit = {true, 0, 0};
  if (!split(&value, '=', &name))
    return "a limit is not RESOURCE=SOFT or RESOURCE=SOFT:HARD";
  bool both = split(&value, ':', &soft);
  if (!both)
    soft = value;
  if (!amount(soft, &limit.soft) || !amount(value, &limit.hard))
    return "a limit is neither a number nor \"unlimited\"";
  if (limit.soft > limit.hard)
    return "a soft limit is above its hard limit";
  for (size_t i = 0; i < SP_RES_COUNT; i++) {
    if (is(name, resources[i])) {
      out->limits[i] = limit;
      return NULL;
    }
  }
  return "there is no resource of that name; there are as, core, cpu, data, "
         "fsize, memlock, nofile, nproc and stack";
}

static const char *put_nice(sp_settings *out, span value) {
  uint64_t n;
  bool minus = value.len > 0 && value.at[0] == '-';
  span rest = {value.at + minus, value.len - minus};
  if (!number(rest, minus ? 20 : 19, &n))
    return "nice is not a number from -20 to 19";
  out->nice = minus ? -(int)n : (int)n;
  out->has_nice = true;
  return NULL;
}

static const char *put_umask(sp_settings *out, span value) {
  uint64_t mask;
  if (!digits(value, 8, 0777, &mask))
    return "umask is not an octal number up to 777";
  out->umask = (uint32_t)mask;
  out->has_umask = true;
  return NULL;
}

static const char *put_text(char *out, size_t room, span value) {
  if (value.len == 0)
    return "a user, group or directory is empty";
  if (value.len >= room)
    return "a user, group or directory has too long a name";
  memcpy(out, value.at, value.len);
  out[value.len] = 0;
  return NULL;
}

static const char *put_share(sp_settings *out, enum sp_affinity how,
                             span value) {
  span share;
  uint64_t n;
  uint64_t of;
  if (!split(&value, '/', &share) || !number(share, SP_SHARES_MAX, &n) ||
      !number(value, SP_SHARES_MAX, &of) || of == 0)
    return "spread and compact take N/M: a number, and a positive one";
  out->affinity = how;
  out->share = (uint32_t)n;
  out->of = (uint32_t)of;
  return NULL;
}

static const char *put_cpu_list(sp_settings *out, span value) {
  static const char wrong[] =
      "affinity is not a list of processors like 0-3,8 with numbers up to "
      "1023, nor spread:N/M, nor compact:N/M";
  uint64_t cpus[SP_CPU_WORDS] = {0};
  for (bool more = true; more;) {
    span item;
    span first;
    uint64_t from;
    uint64_t to;
    more = split(&value, ',', &item);
    if (!more)
      item = value;
    if (!split(&item, '-', &first))
      first = item;
    if (!number(first, SP_CPU_MAX - 1, &from) ||
        !number(item, SP_CPU_MAX - 1, &to) || from > to)
      return wrong;
    for (; from <= to; from++)
      cpus[from / 64] |= (uint64_t)1 << from % 64;
  }
  memcpy(out->cpus, cpus, sizeof cpus);
  out->affinity = SP_AFFINITY_LIST;
  return NULL;
}

static const char *put_affinity(sp_settings *out, span value) {
  span how;
  if (is(value, "none")) {
    out->affinity = SP_AFFINITY_NONE;
    return NULL;
  }
  if (!split(&value, ':', &how))
    return put_cpu_list(out, value);
  if (is(how, "spread"))
    return put_share(out, SP_AFFINITY_SPREAD, value);
  if (is(how, "compact"))
    return put_share(out, SP_AFFINITY_COMPACT, value);
  return "affinity has a word other than spread and compact";
}

static const char *put_memory(sp_settings *out, span value) {
  uint64_t bytes;
  if (!amount(value, &bytes) || bytes < (uint64_t)1024 * 1024)
    return "memory is not a number of bytes, at least 1M";
  out->memory = bytes == SP_UNLIMITED ? 0 : bytes;
  return NULL;
}

static const char *put_processes(sp_settings *out, span value) {
  if (!number(value, 4194304, &out->processes) || out->processes == 0)
    return "processes is not a number from 1 to 4194304";
  return NULL;
}

/* 1.5, or 2, or .25 */
static const char *put_cpus(sp_settings *out, span value) {
  static const char wrong[] =
      "cpus is not a number from 0.01 to 4096 with up to three decimals";
  uint64_t whole = 0;
  uint64_t milli = 0;
  span head;
  bool point = split(&value, '.', &head);
  if (!point)
    head = value;
  if ((head.len > 0 || !point) && !number(head, 4096, &whole))
    return wrong;
  if (point) {
    if (value.len > 3 || !number(value, 999, &milli))
      return wrong;
    for (size_t i = value.len; i < 3; i++)
      milli *= 10;
  }
  milli += whole * 1000;
  if (milli < 10 || milli > (uint64_t)4096 * 1000)
    return wrong;
  out->cpu_milli = (uint32_t)milli;
  return NULL;
}

static const char *put_containment(sp_settings *out, span value) {
  static const char *const words[] = {"auto", "none", "cgroup",
                                      "pid_namespace"};
  for (size_t i = 0; i < sizeof words / sizeof words[0]; i++) {
    if (is(value, words[i])) {
      out->containment = (enum sp_containment)i;
      return NULL;
    }
  }
  return "containment is none of auto, none, cgroup, pid_namespace";
}

static const char *put_cgroup(sp_settings *out, span value) {
  if (value.len == 0 || value.at[0] != '/')
    return "cgroup is not an absolute path";
  return put_text(out->cgroup, sizeof out->cgroup, value);
}

static const char *put_named(sp_settings *out, span name, span value) {
  if (is(name, "limit"))
    return put_limit(out, value);
  if (is(name, "nice"))
    return put_nice(out, value);
  if (is(name, "umask"))
    return put_umask(out, value);
  if (is(name, "user"))
    return put_text(out->user, sizeof out->user, value);
  if (is(name, "group"))
    return put_text(out->group, sizeof out->group, value);
  if (is(name, "affinity"))
    return put_affinity(out, value);
  if (is(name, "memory"))
    return put_memory(out, value);
  if (is(name, "processes"))
    return put_processes(out, value);
  if (is(name, "cpus"))
    return put_cpus(out, value);
  if (is(name, "containment"))
    return put_containment(out, value);
  if (is(name, "cgroup"))
    return put_cgroup(out, value);
  return "there is no setting of that name";
}

void sp_settings_init(sp_settings *out) { memset(out, 0, sizeof *out); }

int sp_settings_put(sp_settings *out, const uint8_t *text, size_t len,
                    const char **why) {
  span value = {(const char *)text, len};
  span name;
  if (len > 0 && memchr(text, 0, len) != NULL)
    *why = "a setting contains a NUL byte";
  else if (!split(&value, '=', &name))
    *why = "a setting lacks \"=\" and a value";
  else
    *why = put_named(out, name, value);
  return *why == NULL ? SP_OK : SP_ERR_SYNTAX;
}

bool sp_settings_want_cgroup(const sp_settings *in) {
  return in->containment == SP_CONTAIN_CGROUP || in->memory > 0 ||
         in->processes > 0 || in->cpu_milli > 0;
}

const char *sp_settings_resource(enum sp_resource which) {
  return resources[which];
}
