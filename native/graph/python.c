/* edgeface._graph: the steps of graph.h on buffers (limited API 3.11). The caller passes
 * C-contiguous arrays of the stated types; sizes are checked here, values are not. */
#define PY_SSIZE_T_CLEAN
#ifndef Py_LIMITED_API
#define Py_LIMITED_API 0x030B0000
#endif
#include <Python.h>

#include "graph.h"

enum { MAX_BUFFERS = 5 };

typedef struct {
    Py_buffer views[MAX_BUFFERS];
    int count;
} buffers;

static void *take(buffers *held, PyObject *object, int writable, Py_ssize_t bytes,
                  const char *name) {
    Py_buffer *view = &held->views[held->count];
    if (PyObject_GetBuffer(object, view, writable ? PyBUF_CONTIG : PyBUF_CONTIG_RO))
        return NULL;
    held->count++;
    if (view->len != bytes) {
        PyErr_Format(PyExc_ValueError, "%s holds %zd bytes, expected %zd", name, view->len, bytes);
        return NULL;
    }
    return view->buf;
}

static void release(buffers *held) {
    while (held->count)
        PyBuffer_Release(&held->views[--held->count]);
}

/* Both kinds of question about edges take the same buffers. */
static int take_rows(buffers *held, PyObject *const *objects, edgeface_graph *rows, Py_ssize_t m,
                     const int32_t **nodes, const int32_t **targets, float **out) {
    const Py_ssize_t places = (Py_ssize_t)(rows->n * rows->k), edges = (Py_ssize_t)(m * rows->k);
    rows->ids = take(held, objects[0], 0, places * 4, "ids");
    rows->amounts =
        rows->ids ? take(held, objects[1], 0, places * 4 * rows->channels, "amounts") : NULL;
    *nodes = rows->amounts ? take(held, objects[2], 0, m * 4, "nodes") : NULL;
    *targets = *nodes ? take(held, objects[3], 0, edges * 4, "targets") : NULL;
    *out = *targets ? take(held, objects[4], 1, edges * 4 * rows->channels, "out") : NULL;
    return *out != NULL;
}

static int sizes_hold(const edgeface_graph *rows, long long m) {
    if (rows->n >= 1 && rows->n < INT32_MAX && rows->k >= 1 && m >= 0 && rows->channels >= 1
        && rows->channels <= EDGEFACE_GRAPH_CHANNELS)
        return 1;
    PyErr_SetString(PyExc_ValueError, "graph: sizes out of range");
    return 0;
}

static PyObject *overlap(PyObject *module, PyObject *args) {
    (void)module;
    long long n, k, channels, m;
    int kind, scalar;
    PyObject *o[5];
    const int32_t *nodes, *targets;
    float *out;
    if (!PyArg_ParseTuple(args, "LLLLiiOOOOO", &n, &k, &channels, &m, &kind, &scalar, &o[0], &o[1],
                          &o[2], &o[3], &o[4]))
        return NULL;
    buffers held = {.count = 0};
    edgeface_graph rows = {n, k, channels, NULL, NULL};
    if (!sizes_hold(&rows, m))
        return NULL;
    const int ok = take_rows(&held, o, &rows, (Py_ssize_t)m, &nodes, &targets, &out);
    if (ok) {
        const edgeface_overlap_kind how =
            kind ? EDGEFACE_OVERLAP_PRODUCT : EDGEFACE_OVERLAP_MEAN;
        Py_BEGIN_ALLOW_THREADS
        edgeface_overlap(edgeface_find_instructions(scalar ? "scalar" : NULL), &rows, m, nodes,
                         targets, how, out);
        Py_END_ALLOW_THREADS
    }
    release(&held);
    if (!ok)
        return NULL;
    Py_RETURN_NONE;
}

static PyObject *lookup(PyObject *module, PyObject *args) {
    (void)module;
    long long n, k, m;
    float absent;
    PyObject *o[5];
    const int32_t *nodes, *targets;
    float *out;
    if (!PyArg_ParseTuple(args, "LLLfOOOOO", &n, &k, &m, &absent, &o[0], &o[1], &o[2], &o[3],
                          &o[4]))
        return NULL;
    buffers held = {.count = 0};
    edgeface_graph rows = {n, k, 1, NULL, NULL};
    if (!sizes_hold(&rows, m))
        return NULL;
    const int ok = take_rows(&held, o, &rows, (Py_ssize_t)m, &nodes, &targets, &out);
    if (ok) {
        Py_BEGIN_ALLOW_THREADS
        edgeface_lookup(&rows, m, nodes, targets, absent, out);
        Py_END_ALLOW_THREADS
    }
    release(&held);
    if (!ok)
        return NULL;
    Py_RETURN_NONE;
}

static PyObject *partition(PyObject *module, PyObject *args) {
    (void)module;
    long long n, edges;
    PyObject *start_o, *targets_o, *weights_o, *labels_o;
    buffers held = {.count = 0};
    if (!PyArg_ParseTuple(args, "LLOOOO", &n, &edges, &start_o, &targets_o, &weights_o, &labels_o))
        return NULL;
    if (n < 0 || n >= INT32_MAX || edges < 0) {
        PyErr_SetString(PyExc_ValueError, "partition: size out of range");
        return NULL;
    }
    const int64_t *start = take(&held, start_o, 0, (Py_ssize_t)((n + 1) * 8), "start");
    const int32_t *targets =
        start ? take(&held, targets_o, 0, (Py_ssize_t)(edges * 4), "targets") : NULL;
    const float *weights =
        targets ? take(&held, weights_o, 0, (Py_ssize_t)(edges * 4), "weights") : NULL;
    int32_t *labels = weights ? take(&held, labels_o, 1, (Py_ssize_t)(n * 4), "labels") : NULL;
    double codelength = 0.0;
    int status = 0;
    if (labels && start[n] != edges) {
        PyErr_SetString(PyExc_ValueError, "partition: start[n] is not the number of edges");
        labels = NULL;
    }
    if (labels) {
        Py_BEGIN_ALLOW_THREADS
        status = edgeface_partition(n, start, targets, weights, labels, &codelength);
        Py_END_ALLOW_THREADS
    }
    release(&held);
    if (!labels)
        return NULL;
    if (status)
        return PyErr_NoMemory();
    return PyFloat_FromDouble(codelength);
}

static PyObject *path(PyObject *module, PyObject *args) {
    (void)module;
    (void)args;
    const edgeface_instructions best = edgeface_find_instructions(NULL);
    return PyUnicode_FromString(edgeface_instructions_name(edgeface_overlap_instructions(best)));
}

static PyMethodDef methods[] = {
    {"overlap", overlap, METH_VARARGS,
     "overlap(n, k, channels, m, kind, scalar, ids, amounts, nodes, targets, out)"},
    {"lookup", lookup, METH_VARARGS,
     "lookup(n, k, m, absent, ids, amounts, nodes, targets, out)"},
    {"partition", partition, METH_VARARGS,
     "partition(n, edges, start, targets, weights, labels) -> codelength"},
    {"path", path, METH_NOARGS, "path() -> 'avx2' or 'scalar'"},
    {NULL, NULL, 0, NULL},
};

static struct PyModuleDef definition = {
    PyModuleDef_HEAD_INIT, "_graph", "Graph steps of clustering.", 0, methods, NULL, NULL, NULL,
    NULL,
};

PyMODINIT_FUNC PyInit__graph(void) {
    return PyModule_Create(&definition);
}
