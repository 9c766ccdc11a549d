#include "sp_time.h"

#include <string.h>

#include "sp_error.h"

#define DAY_SECONDS 86400
#define MICRO_DIGITS 6

/* ---- the calendar -------------------------------------------------------- */

static bool is_leap(int32_t year) {
  return year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
}

static uint8_t days_of(int32_t year, uint8_t month) {
  static const uint8_t days[12] = {31, 28, 31, 30, 31, 30,
                                   31, 31, 30, 31, 30, 31};
  return month == 2 && is_leap(year) ? 29 : days[month - 1];
}

/* Years begin in March here, so that the leap day is the last; eras have 400
 * years. */
#define ERA_DAYS 146097
#define DAYS_TO_1970 719468

static int64_t floor_div(int64_t n, int64_t by) {
  return n / by - (n % by < 0);
}

int64_t sp_time_days(int32_t year, uint8_t month, uint8_t day) {
  int64_t y = (int64_t)year - (month <= 2);
  int64_t era = floor_div(y, 400);
  int64_t of_era = y - era * 400;
  int64_t shifted = month > 2 ? month - 3 : month + 9;
  int64_t of_year = (153 * shifted + 2) / 5 + day - 1;
  return era * ERA_DAYS + of_era * 365 + of_era / 4 - of_era / 100 + of_year -
         DAYS_TO_1970;
}

static void set_date(int64_t days, sp_time *t) {
  days += DAYS_TO_1970;
  int64_t era = floor_div(days, ERA_DAYS);
  int64_t of_era = days - era * ERA_DAYS;
  int64_t year =
      (of_era - of_era / 1460 + of_era / 36524 - of_era / 146096) / 365;
  int64_t of_year = of_era - (365 * year + year / 4 - year / 100);
  int64_t shifted = (5 * of_year + 2) / 153;
  t->day = (uint8_t)(of_year - (153 * shifted + 2) / 5 + 1);
  t->month = (uint8_t)(shifted < 10 ? shifted + 3 : shifted - 9);
  t->year = (int32_t)(year + era * 400 + (t->month <= 2));
}

static void set_seconds(int64_t seconds, sp_time *t) {
  int64_t days = floor_div(seconds, DAY_SECONDS);
  int64_t rest = seconds - days * DAY_SECONDS;
  set_date(days, t);
  t->hour = (uint8_t)(rest / 3600);
  t->minute = (uint8_t)(rest / 60 % 60);
  t->second = (uint8_t)(rest % 60);
}

static bool has_text(int64_t days) {
  return days >= sp_time_days(SP_TIME_MIN_YEAR, 1, 1) &&
         days <= sp_time_days(SP_TIME_MAX_YEAR, 12, 31);
}

int sp_time_from_days(int64_t days, sp_time *t) {
  memset(t, 0, sizeof *t);
  if (!has_text(days))
    return SP_ERR_LIMIT;
  set_date(days, t);
  return 0;
}

int sp_time_from_seconds(int64_t seconds, uint32_t micro, sp_time *t) {
  memset(t, 0, sizeof *t);
  if (!has_text(floor_div(seconds, DAY_SECONDS)))
    return SP_ERR_LIMIT;
  set_seconds(seconds, t);
  t->micro = micro;
  t->digits = micro != 0 ? MICRO_DIGITS : 0;
  t->zulu = true;
  return 0;
}

void sp_time_to_utc(sp_time *t) {
  if (t->offset != 0)
    set_seconds(sp_time_days(t->year, t->month, t->day) * DAY_SECONDS +
                    (int64_t)t->hour * 3600 + (int64_t)t->minute * 60 +
                    t->second - t->offset,
                t);
  t->offset = 0;
  t->zulu = true;
}

static bool valid_date(const sp_time *t) {
  return t->year >= SP_TIME_MIN_YEAR && t->year <= SP_TIME_MAX_YEAR &&
         t->month >= 1 && t->month <= 12 && t->day >= 1 &&
         t->day <= days_of(t->year, t->month);
}

static bool valid_time(const sp_time *t) {
  return t->hour < 24 && t->minute < 60 && t->second < 60 &&
         t->micro < 1000000 && t->digits <= MICRO_DIGITS;
}

bool sp_time_valid(enum sp_time_kind kind, const sp_time *t) {
  if (kind != SP_TIME_TIME && !valid_date(t))
    return false;
  if (kind != SP_TIME_DATE && !valid_time(t))
    return false;
  return kind != SP_TIME_INSTANT ||
         (t->offset % 60 == 0 && t->offset > -DAY_SECONDS &&
          t->offset < DAY_SECONDS);
}

/* ---- writing ------------------------------------------------------------- */

static char *put_number(char *at, uint32_t value, size_t digits) {
  for (size_t i = digits; i-- > 0; value /= 10)
    at[i] = (char)('0' + value % 10);
  return at + digits;
}

static char *put_date(char *at, const sp_time *t) {
  at = put_number(at, (uint32_t)t->year, 4);
  *at++ = '-';
  at = put_number(at, t->month, 2);
  *at++ = '-';
  return put_number(at, t->day, 2);
}

static char *put_time(char *at, const sp_time *t) {
  at = put_number(at, t->hour, 2);
  *at++ = ':';
  at = put_number(at, t->minute, 2);
  *at++ = ':';
  at = put_number(at, t->second, 2);
  if (t->digits == 0)
    return at;
  *at++ = '.';
  put_number(at, t->micro, MICRO_DIGITS);
  return at + t->digits;
}

static char *put_offset(char *at, const sp_time *t) {
  uint32_t minutes = (uint32_t)(t->offset < 0 ? -t->offset : t->offset) / 60;
  if (minutes == 0 && t->zulu) {
    *at++ = 'Z';
    return at;
  }
  *at++ = t->offset < 0 ? '-' : '+';
  at = put_number(at, minutes / 60, 2);
  *at++ = ':';
  return put_number(at, minutes % 60, 2);
}

size_t sp_time_put(char out[SP_TIME_TEXT_MAX], enum sp_time_kind kind,
                   const sp_time *t) {
  char *at = out;
  if (kind != SP_TIME_TIME)
    at = put_date(at, t);
  if (kind == SP_TIME_NAIVE || kind == SP_TIME_INSTANT)
    *at++ = 'T';
  if (kind != SP_TIME_DATE)
    at = put_time(at, t);
  if (kind == SP_TIME_INSTANT)
    at = put_offset(at, t);
  return (size_t)(at - out);
}

/* ---- reading ------------------------------------------------------------- */

typedef struct cursor {
  const uint8_t *at;
  const uint8_t *end;
} cursor;

static bool get_number(cursor *c, size_t digits, uint32_t *out) {
  if ((size_t)(c->end - c->at) < digits)
    return false;
  *out = 0;
  for (; digits > 0; digits--, c->at++) {
    if (*c->at < '0' || *c->at > '9')
      return false;
    *out = *out * 10 + (uint32_t)(*c->at - '0');
  }
  return true;
}

static bool get_two(cursor *c, uint8_t *out) {
  uint32_t value;
  if (!get_number(c, 2, &value))
    return false;
  *out = (uint8_t)value;
  return true;
}

/* One of the bytes in |any|. */
static bool get_byte(cursor *c, const char *any) {
  if (c->at == c->end || *c->at == 0 || strchr(any, *c->at) == NULL)
    return false;
  c->at++;
  return true;
}

static bool get_date(cursor *c, sp_time *t) {
  uint32_t year;
  if (!get_number(c, 4, &year))
    return false;
  t->year = (int32_t)year;
  return get_byte(c, "-") && get_two(c, &t->month) && get_byte(c, "-") &&
         get_two(c, &t->day);
}

static bool get_fraction(cursor *c, sp_time *t) {
  size_t digits = 0;
  uint32_t micro = 0;
  for (; c->at < c->end && *c->at >= '0' && *c->at <= '9'; c->at++, digits++)
    if (digits < MICRO_DIGITS)
      micro = micro * 10 + (uint32_t)(*c->at - '0');
  t->digits = (uint8_t)(digits < MICRO_DIGITS ? digits : MICRO_DIGITS);
  for (size_t i = t->digits; i < MICRO_DIGITS; i++)
    micro *= 10;
  t->micro = micro;
  return digits > 0;
}

static bool get_time(cursor *c, sp_time *t) {
  if (!get_two(c, &t->hour) || !get_byte(c, ":") || !get_two(c, &t->minute) ||
      !get_byte(c, ":") || !get_two(c, &t->second))
    return false;
  return !get_byte(c, ".") || get_fraction(c, t);
}

static bool get_offset(cursor *c, sp_time *t) {
  uint8_t hours, minutes;
  if (get_byte(c, "Zz")) {
    t->zulu = true;
    return true;
  }
  bool west = c->at < c->end && *c->at == '-';
  if (!get_byte(c, "+-") || !get_two(c, &hours) || !get_byte(c, ":") ||
      !get_two(c, &minutes) || minutes > 59)
    return false;
  t->offset = hours * 3600 + minutes * 60;
  if (west)
    t->offset = -t->offset;
  return true;
}

int sp_time_get(const uint8_t *text, size_t len, enum sp_time_kind kind,
                sp_time *t) {
  cursor c = {text, text + len};
  memset(t, 0, sizeof *t);
  bool ok = kind == SP_TIME_TIME || get_date(&c, t);
  if (ok && (kind == SP_TIME_NAIVE || kind == SP_TIME_INSTANT))
    ok = get_byte(&c, "Tt ");
  if (ok && kind != SP_TIME_DATE)
    ok = get_time(&c, t);
  if (ok && kind == SP_TIME_INSTANT)
    ok = get_offset(&c, t);
  return ok && c.at == c.end && sp_time_valid(kind, t) ? 0 : SP_ERR_SYNTAX;
}
