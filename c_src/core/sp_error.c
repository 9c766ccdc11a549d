#include "sp_error.h"

const char *sp_strerror(int err) {
  switch (err) {
  case SP_OK:
    return "no error";
  case SP_ERR_NOMEM:
    return "out of memory";
  case SP_ERR_INVAL:
    return "invalid argument";
  case SP_ERR_SYNTAX:
    return "input is not well formed";
  case SP_ERR_TRUNCATED:
    return "input ends too early";
  case SP_ERR_UTF8:
    return "text is not valid UTF-8";
  case SP_ERR_DEPTH:
    return "nested too deep";
  case SP_ERR_LIMIT:
    return "larger than the limit";
  case SP_ERR_NOTFOUND:
    return "no such entry";
  case SP_ERR_EXISTS:
    return "there is one already";
  case SP_ERR_FULL:
    return "the queue is full";
  case SP_ERR_BUSY:
    return "the wanted slot is busy";
  case SP_ERR_GONE:
    return "the wanted slot is not available any more";
  case SP_ERR_NOTREADY:
    return "there is no slot yet";
  default:
    return "unknown error";
  }
}
