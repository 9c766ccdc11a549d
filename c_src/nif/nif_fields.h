/* Atoms of Elixir's structs, made once at load. */
#ifndef SNAKEPIT_NIF_FIELDS_H
#define SNAKEPIT_NIF_FIELDS_H

#include "nif.h"

#define NIF_FIELDS(X)                                                          \
  X(NaN)                                                                       \
  X(arrow)                                                                     \
  X(bytes)                                                                     \
  X(calendar)                                                                  \
  X(coef)                                                                      \
  X(copy)                                                                      \
  X(cpu)                                                                       \
  X(cuda)                                                                      \
  X(day)                                                                       \
  X(device)                                                                    \
  X(dlpack)                                                                    \
  X(dtype)                                                                     \
  X(elixir)                                                                    \
  X(exp)                                                                       \
  X(hour)                                                                      \
  X(inf)                                                                       \
  X(kind)                                                                      \
  X(map)                                                                       \
  X(metadata)                                                                  \
  X(microsecond)                                                               \
  X(minute)                                                                    \
  X(month)                                                                     \
  X(mps)                                                                       \
  X(owner)                                                                     \
  X(python)                                                                    \
  X(ref)                                                                       \
  X(second)                                                                    \
  X(shape)                                                                     \
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
  X(Time, "Time")                                                              \
  X(ZeroCopyRef, "Snakepit.ZeroCopyRef")

#define NIF_DECLARE_FIELD(name) extern ERL_NIF_TERM nif_field_##name;
NIF_FIELDS(NIF_DECLARE_FIELD)
#undef NIF_DECLARE_FIELD
#define NIF_DECLARE_MODULE(name, text) extern ERL_NIF_TERM nif_module_##name;
NIF_MODULES(NIF_DECLARE_MODULE)
#undef NIF_DECLARE_MODULE

#endif
