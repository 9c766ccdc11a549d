/* Atoms of Elixir's structs, made once at load. */
#ifndef SNAKEPIT_NIF_FIELDS_H
#define SNAKEPIT_NIF_FIELDS_H

#include "nif.h"

#define NIF_FIELDS(X)                                                          \
  X(NaN)                                                                       \
  X(calendar)                                                                  \
  X(coef)                                                                      \
  X(day)                                                                       \
  X(exp)                                                                       \
  X(hour)                                                                      \
  X(inf)                                                                       \
  X(map)                                                                       \
  X(microsecond)                                                               \
  X(minute)                                                                    \
  X(month)                                                                     \
  X(second)                                                                    \
  X(sign)                                                                      \
  X(std_offset)                                                                \
  X(time_zone)                                                                 \
  X(utc_offset)                                                                \
  X(year)                                                                      \
  X(zone_abbr)

#define NIF_MODULES(X)                                                         \
  X(Calendar, "Calendar.ISO")                                                  \
  X(Date, "Date")                                                              \
  X(DateTime, "DateTime")                                                      \
  X(Decimal, "Decimal")                                                        \
  X(MapSet, "MapSet")                                                          \
  X(NaiveDateTime, "NaiveDateTime")                                            \
  X(Time, "Time")

#define NIF_DECLARE_FIELD(name) extern ERL_NIF_TERM nif_field_##name;
NIF_FIELDS(NIF_DECLARE_FIELD)
#undef NIF_DECLARE_FIELD
#define NIF_DECLARE_MODULE(name, text) extern ERL_NIF_TERM nif_module_##name;
NIF_MODULES(NIF_DECLARE_MODULE)
#undef NIF_DECLARE_MODULE

#endif
