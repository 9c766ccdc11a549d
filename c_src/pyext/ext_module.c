/* The module _snakepit_native: what snakepit_bridge._native finds. */
#include "ext_shared.h"

ext_hooks ext;

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
  PyObject **const slots[HOOKS] = {&ext.encode_error,    &ext.decode_error,
                                   &ext.cancelled_error, &ext.simplify,
                                   &ext.zero_copy,       &ext.binary_result,
                                   &ext.reply,           &ext.tagged,
                                   &ext.untag,           &ext.freeze};
  for (size_t i = 0; i < HOOKS; i++) {
    PyObject *old = *slots[i];
    Py_INCREF(given[i]);
    *slots[i] = given[i];
    Py_XDECREF(old);
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

static struct PyModuleDef definition = {PyModuleDef_HEAD_INIT,
                                        .m_name = "_snakepit_native",
                                        .m_size = -1, .m_methods = functions};

static PyObject *add_type(PyObject *module, PyType_Spec *spec,
                          const char *name) {
  PyObject *type = PyType_FromSpec(spec);
  if (type == NULL)
    return NULL;
  Py_INCREF(type);
  if (PyModule_AddObject(module, name, type) == 0)
    return type;
  Py_DECREF(type);
  Py_DECREF(type);
  return NULL;
}

PyMODINIT_FUNC PyInit__snakepit_native(void);

__attribute__((visibility("default"))) PyMODINIT_FUNC
PyInit__snakepit_native(void) {
  PyObject *module = PyModule_Create(&definition);
  if (module == NULL)
    return NULL;
  PyObject *call = add_type(module, &ext_call_spec, "Call");
  PyObject *link =
      call != NULL ? add_type(module, &ext_link_spec, "Link") : NULL;
  PyObject *request =
      link != NULL ? add_type(module, &ext_request_spec, "Request") : NULL;
  Py_XDECREF(link);
  if (request == NULL || ext_shared_init(module) != 0) {
    Py_XDECREF(request);
    Py_XDECREF(call);
    Py_DECREF(module);
    return NULL;
  }
  ext_call_type = (PyTypeObject *)call; /* kept for good */
  ext_request_type = (PyTypeObject *)request;
  return module;
}
