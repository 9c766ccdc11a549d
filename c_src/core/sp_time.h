/* Dates and times of day as ISO 8601 text (the profile of RFC 3339), in the
 * proleptic Gregorian calendar, and the arithmetic that time zones need. */
#ifndef SP_TIME_H
#define SP_TIME_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum sp_time_kind {
  SP_TIME_DATE,   /* 2024-02-29 */
  SP_TIME_TIME,   /* 23:59:59.000001 */
  SP_TIME_NAIVE,  /* 2024-02-29T23:59:59 */
  SP_TIME_INSTANT /* 2024-02-29T23:59:59Z, 2024-02-29T23:59:59.5+05:30 */
};

/* A kind uses the fields that its text shows. */
typedef struct sp_time {
  int32_t year;
  uint8_t month;
  uint8_t day;
  uint8_t hour;
  uint8_t minute;
  uint8_t second; /* no leap seconds: neither end has them */
  uint8_t digits; /* of the fraction, 0 to 6 */
  uint32_t micro;
  int32_t offset; /* seconds east of UTC */
  bool zulu;      /* an offset of 0 is written as Z */
} sp_time;

#define SP_TIME_MIN_YEAR 1
#define SP_TIME_MAX_YEAR 9999
#define SP_TIME_TEXT_MAX 32

/* Whether |t| has a text: years from SP_TIME_MIN_YEAR to SP_TIME_MAX_YEAR,
 * offsets of whole minutes below a day. */
bool sp_time_valid(enum sp_time_kind kind, const sp_time *t);
/* The text of a valid |t|, not terminated; returns its length. */
size_t sp_time_put(char out[SP_TIME_TEXT_MAX], enum sp_time_kind kind,
                   const sp_time *t);
/* The text of a valid time. A fraction may have more digits than six, those
 * after the sixth are dropped; a blank or a small t may stand for the T, and a
 * small z for the Z. SP_ERR_SYNTAX. */
int sp_time_get(const uint8_t *text, size_t len, enum sp_time_kind kind,
                sp_time *t);

/* The same instant at offset 0; the year may leave the range by one. */
void sp_time_to_utc(sp_time *t);
/* Days since 1970-01-01. */
int64_t sp_time_days(int32_t year, uint8_t month, uint8_t day);
/* The date of such a day, and of a second since then with the time at offset
 * 0. SP_ERR_LIMIT for years that have no text. */
int sp_time_from_days(int64_t days, sp_time *t);
int sp_time_from_seconds(int64_t seconds, uint32_t micro, sp_time *t);

#endif
