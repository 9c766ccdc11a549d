/* The module _snakepit_native: what snakepit_bridge._native finds. */
#include "ext_dlpack.h"
#include "ext_shared.h"

ext_hooks ext;
static PyTypeObject *link_type;

/* configure(encode_error, decode_error, cancelled_error, simplify, zero_copy,
 * binary_result, reply, tagged, untag, freeze) */
#define HOOKS 10

static PyObject *configure(PyObject *module, PyObject *args) {
  (void)module;
  PyObject *given[HOOKS];
  if (!PyArg_ParseTuple(args, "OOOOOOOOOO", &given[0], &given[1], &given[2],
                        &given[3], &given[4], &given[5], &given[6], &given[7],
                        &given[8], &given[9]))
    return NULL;
  ext_hook *const hooks[HOOKS] = {&ext.encode_error,    &ext.decode_error,
                                  &ext.cancelled_error, &ext.simplify,
                                  &ext.zero_copy,       &ext.binary_result,
                                  &ext.reply,           &ext.tagged,
                                  &ext.untag,           &ext.freeze};
  /* The first last: it tells that all are there. */
  for (size_t i = HOOKS; i > 0; i--) {
    Py_INCREF(given[i - 1]);
    PyObject *old = atomic_exchange(hooks[i - 1], given[i - 1]);
#ifdef Py_GIL_DISABLED
    (void)old; /* kept for good: another thread may be using it */
#else
    Py_XDECREF(old);
#endif
  }
  Py_RETURN_NONE;
}

static bool check_configured(void) {
  if (ext.encode_error != NULL)
    return true;
  PyErr_SetString(PyExc_RuntimeError, "configure() has not been called");
  return false;
}

/* encode(value): CBOR bytes. */
static PyObject *encode(PyObject *module, PyObject *value) {
  (void)module;
  sp_buf out;
  PyObject *result = NULL;
  if (!check_configured())
    return NULL;
  sp_buf_init(&out, sp_mem_default(), 0);
  if (ext_encode(&out, value, NULL) == 0)
    result =
        PyBytes_FromStringAndSize((const char *)out.data, (Py_ssize_t)out.len);
  sp_buf_free(&out);
  return result;
}

/* decode(bytes): the value. */
static PyObject *decode(PyObject *module, PyObject *bytes) {
  (void)module;
  char *data;
  Py_ssize_t len;
  if (!check_configured() || PyBytes_AsStringAndSize(bytes, &data, &len) != 0)
    return NULL;
  return ext_decode((const uint8_t *)data, (size_t)len, NULL);
}

static PyMethodDef functions[] = {
    {"configure", configure, METH_VARARGS, NULL},
    {"encode", encode, METH_O, NULL},
    {"decode", decode, METH_O, NULL},
    {"zygote_serve", ext_zygote_serve, METH_O, NULL},
    {NULL, NULL, 0, NULL}};

static PyTypeObject *make_type(PyType_Spec *spec) {
  return (PyTypeObject *)PyType_FromSpec(spec);
}

/* The types are this process's, and so one interpreter's; kept for good. */
static int make_types(void) {
  static PyInterpreterState *owner;
  PyInterpreterState *me = PyInterpreterState_Get();
  if (owner != NULL && owner != me) {
    PyErr_SetString(PyExc_ImportError,
                    "_snakepit_native is loaded in another interpreter");
    return -1;
  }
  owner = me;
  if (ext_call_type == NULL)
    ext_call_type = make_type(&ext_call_spec);
  if (ext_request_type == NULL)
    ext_request_type = make_type(&ext_request_spec);
  if (link_type == NULL)
    link_type = make_type(&ext_link_spec);
  return ext_call_type && ext_request_type && link_type ? 0 : -1;
}

static int add_type(PyObject *module, PyTypeObject *type, const char *name) {
  Py_INCREF((PyObject *)type);
  if (PyModule_AddObject(module, name, (PyObject *)type) == 0)
    return 0;
  Py_DECREF((PyObject *)type);
  return -1;
}

/* By one thread at a time: the import lock is held. */
static int fill_module(PyObject *module) {
  if (make_types() != 0 || add_type(module, ext_call_type, "Call") != 0 ||
      add_type(module, link_type, "Link") != 0 ||
      ext_dlpack_init(module) != 0 || ext_shared_init(module) != 0)
    return -1;
  return add_type(module, ext_request_type, "Request");
}

static PyModuleDef_Slot module_slots[] = {{Py_mod_exec, (void *)fill_module},
#ifdef Py_GIL_DISABLED
                                          {Py_mod_gil, Py_MOD_GIL_NOT_USED},
#endif
                                          {0, NULL}};

static struct PyModuleDef definition = {
    PyModuleDef_HEAD_INIT, .m_name = "_snakepit_native", .m_methods = functions,
    .m_slots = module_slots};

PyMODINIT_FUNC PyInit__snakepit_native(void);

__attribute__((visibility("default"))) PyMODINIT_FUNC
PyInit__snakepit_native(void) {
  return PyModuleDef_Init(&definition);
}
