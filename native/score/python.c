/* The extension module edgeface._native: checks sizes, releases the GIL, calls the C API. Written
 * against the stable ABI of Python 3.11. Array shapes are the business of edgeface/score.py. */
#define PY_SSIZE_T_CLEAN
#ifndef Py_LIMITED_API
#define Py_LIMITED_API 0x030B0000
#endif
#include <Python.h>

#include "score.h"

enum { SCAN, EXACT, SCALE, ERROR, IDS, BUFFERS };

typedef struct {
    Py_buffer buffers[BUFFERS];
    edgeface_matrix matrix;
} rows;

static void release(Py_buffer *buffers, int count) {
    for (int i = 0; i < count; i++)
        if (buffers[i].obj) PyBuffer_Release(&buffers[i]);
}

static int holds(const Py_buffer *b, size_t items, size_t size, const char *what) {
    if (!b->buf || (size_t)b->len < items * size || (uintptr_t)b->buf % size) {
        PyErr_Format(PyExc_ValueError, "%s: expected %zu aligned items of %zu bytes, got %zd bytes",
                     what, items, size, b->len);
        return 0;
    }
    return 1;
}

/* (scan, exact, scale, error, ids, rows, dim, storage, exact storage, norm, error_max) */
static int parse_rows(PyObject *tuple, rows *r) {
    Py_ssize_t count, dim;
    int storage, exact_storage;
    float norm, error_max;
    Py_buffer *b = r->buffers;
    if (!PyTuple_Check(tuple)) {
        PyErr_SetString(PyExc_TypeError, "rows: expected a tuple");
        return 0;
    }
    if (!PyArg_ParseTuple(tuple, "y*y*z*z*z*nniiff:rows", &b[SCAN], &b[EXACT], &b[SCALE],
                          &b[ERROR], &b[IDS], &count, &dim, &storage, &exact_storage, &norm,
                          &error_max))
        return 0;
    if (count < 1 || (uint64_t)count >= UINT32_MAX || dim < 1 || dim > EDGEFACE_MAX_DIM) {
        PyErr_Format(PyExc_ValueError, "rows: %zd rows of dimension %zd are out of range", count,
                     dim);
        return 0;
    }
    const size_t n = (size_t)count, d = (size_t)dim, codes = (d + 63) / 64 * 64;
    const int scan_ok = storage == EDGEFACE_INT8    ? holds(&b[SCAN], n * codes, 1, "codes")
                        : storage == EDGEFACE_FLOAT16 ? holds(&b[SCAN], n * d, 2, "rows")
                                                      : holds(&b[SCAN], n * d, 4, "rows");
    if (!scan_ok || !holds(&b[EXACT], n * d, exact_storage == EDGEFACE_FLOAT16 ? 2 : 4, "exact"))
        return 0;
    if (storage == EDGEFACE_INT8 &&
        (!holds(&b[SCALE], n, 4, "scale") || !holds(&b[ERROR], n, 4, "error")))
        return 0;
    if (b[IDS].buf && !holds(&b[IDS], n, 8, "ids")) return 0;
    r->matrix = (edgeface_matrix){b[SCAN].buf, b[EXACT].buf, b[SCALE].buf, b[ERROR].buf,
                                  b[IDS].buf, n, d, (edgeface_storage)storage,
                                  (edgeface_storage)exact_storage, norm, error_max};
    return 1;
}

static PyObject *finish(int status, const edgeface_cost *cost) {
    if (status == EDGEFACE_NO_KERNEL)
        return PyErr_Format(PyExc_ValueError, "kernel: this machine cannot run it");
    if (status != EDGEFACE_OK)
        return PyErr_Format(PyExc_ValueError, "native call: invalid argument");
    return Py_BuildValue("KK", (unsigned long long)cost->rescored,
                         (unsigned long long)cost->overflows);
}

static PyObject *topk(PyObject *self, PyObject *args) {
    (void)self;
    const char *name;
    PyObject *tuple, *result = NULL;
    Py_ssize_t count, k;
    int threads;
    rows r = {0};
    Py_buffer b[3] = {{0}};
    if (!PyArg_ParseTuple(args, "zOy*nniw*w*:topk", &name, &tuple, &b[0], &count, &k, &threads,
                          &b[1], &b[2]))
        return NULL;
    if (!parse_rows(tuple, &r)) goto done;
    if (count < 1 || k < 1 || threads < 1 || k > UINT32_MAX || count > UINT32_MAX) {
        PyErr_SetString(PyExc_ValueError, "topk: probes, k and threads must be at least 1");
        goto done;
    }
    const size_t q = (size_t)count;
    if (!holds(&b[0], q * r.matrix.dim, 4, "probes") || !holds(&b[1], q * (size_t)k, 8, "ids") ||
        !holds(&b[2], q * (size_t)k, 4, "similarities"))
        goto done;
    if (threads > EDGEFACE_MAX_THREADS) threads = EDGEFACE_MAX_THREADS;
    void *workspace = PyMem_Malloc(edgeface_workspace(q, r.matrix.dim, (size_t)k, 0, threads));
    if (!workspace) {
        PyErr_NoMemory();
        goto done;
    }
    edgeface_cost cost = {0, 0};
    int status;
    Py_BEGIN_ALLOW_THREADS
    status = edgeface_topk(edgeface_find_kernel(name), &r.matrix, b[0].buf, q, (size_t)k, threads,
                           workspace, b[1].buf, b[2].buf, &cost);
    Py_END_ALLOW_THREADS
    PyMem_Free(workspace);
    result = finish(status, &cost);
done:
    release(r.buffers, BUFFERS);
    release(b, 3);
    return result;
}

/* (offsets, submodels, scale, maximum, argmax, log_sum_exp) */
static int parse_submodels(PyObject *tuple, Py_buffer *b, size_t probes, edgeface_submodels *s) {
    Py_ssize_t count;
    float scale;
    if (!PyTuple_Check(tuple)) {
        PyErr_SetString(PyExc_TypeError, "submodels: expected a tuple or None");
        return 0;
    }
    if (!PyArg_ParseTuple(tuple, "y*nfw*w*w*:submodels", &b[0], &count, &scale, &b[1], &b[2],
                          &b[3]))
        return 0;
    if (count < 1 || count > UINT32_MAX) {
        PyErr_SetString(PyExc_ValueError, "submodels: expected at least 1");
        return 0;
    }
    const size_t n = (size_t)count;
    if (!holds(&b[0], n + 1, 8, "offsets") || !holds(&b[1], probes * n, 4, "maximum") ||
        !holds(&b[2], probes * n, 8, "argmax") || !holds(&b[3], probes * n, 8, "log_sum_exp"))
        return 0;
    *s = (edgeface_submodels){b[0].buf, n, scale, b[1].buf, b[2].buf, b[3].buf};
    return 1;
}

static PyObject *mixmaxsim(PyObject *self, PyObject *args) {
    (void)self;
    const char *name;
    PyObject *weights, *centres, *extra, *result = NULL;
    Py_ssize_t count;
    int threads;
    rows w = {0}, c = {0};
    Py_buffer b[3] = {{0}}, e[4] = {{0}};
    edgeface_submodels submodels = {0};
    if (!PyArg_ParseTuple(args, "zOOy*niw*w*O:mixmaxsim", &name, &weights, &centres, &b[0], &count,
                          &threads, &b[1], &b[2], &extra))
        return NULL;
    if (!parse_rows(weights, &w) || !parse_rows(centres, &c)) goto done;
    if (count < 1 || threads < 1 || count > UINT32_MAX) {
        PyErr_SetString(PyExc_ValueError, "mixmaxsim: probes and threads must be at least 1");
        goto done;
    }
    const size_t q = (size_t)count;
    if (!holds(&b[0], q * w.matrix.dim, 4, "probes") || !holds(&b[1], q * 2, 8, "classes") ||
        !holds(&b[2], q * 4, 4, "scores"))
        goto done;
    if (extra != Py_None && !parse_submodels(extra, e, q, &submodels)) goto done;
    if (threads > EDGEFACE_MAX_THREADS) threads = EDGEFACE_MAX_THREADS;
    void *workspace =
        PyMem_Malloc(edgeface_workspace(q, w.matrix.dim, 1, submodels.submodels, threads));
    if (!workspace) {
        PyErr_NoMemory();
        goto done;
    }
    edgeface_cost cost = {0, 0};
    int status;
    Py_BEGIN_ALLOW_THREADS
    status = edgeface_mixmaxsim(edgeface_find_kernel(name), &w.matrix, &c.matrix, b[0].buf, q,
                                threads, workspace, b[1].buf, b[2].buf,
                                submodels.submodels ? &submodels : NULL, &cost);
    Py_END_ALLOW_THREADS
    PyMem_Free(workspace);
    result = finish(status, &cost);
done:
    release(w.buffers, BUFFERS);
    release(c.buffers, BUFFERS);
    release(b, 3);
    release(e, 4);
    return result;
}

static PyObject *kernels(PyObject *self, PyObject *args) {
    (void)self;
    (void)args;
    PyObject *names = PyList_New(0);
    const char *name;
    for (size_t i = 0; names && (name = edgeface_compiled_kernel(i)); i++) {
        if (!edgeface_find_kernel(name)) continue;
        PyObject *text = PyUnicode_FromString(name);
        if (!text || PyList_Append(names, text) < 0) Py_CLEAR(names);
        Py_XDECREF(text);
    }
    return names;
}

static PyMethodDef methods[] = {
    {"topk", topk, METH_VARARGS, "topk(kernel, rows, probes, q, k, threads, ids, similarities)"},
    {"mixmaxsim", mixmaxsim, METH_VARARGS,
     "mixmaxsim(kernel, weights, centres, probes, q, threads, classes, scores, submodels)"},
    {"kernels", kernels, METH_NOARGS, "Names of the kernels this machine runs, best first."},
    {NULL, NULL, 0, NULL},
};
static PyModuleDef_Slot slots[] = {{0, NULL}};
static struct PyModuleDef module = {PyModuleDef_HEAD_INIT, "_native",
                                    "Fused scoring kernels; use edgeface.score.", 0, methods, slots,
                                    NULL, NULL, NULL};

PyMODINIT_FUNC PyInit__native(void) { return PyModuleDef_Init(&module); }
