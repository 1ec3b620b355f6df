/* The two-level map equation: what edgeface_partition does. */
#include "graph.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* A graph whose nodes are leaves or, after aggregation, modules. Weights are flows: they sum to
 * one over both directions of all edges of the leaf graph. */
typedef struct {
    int64_t n;
    int64_t *start;
    int32_t *targets;
    double *flows;
    double *visit; /* visit rate of a node */
    double *out;   /* flow that leaves a node for another one */
} graph;

typedef struct {
    const graph *g;
    int32_t *module;   /* of a node */
    double *visit;     /* of a module */
    double *out;       /* of a module */
    int32_t *members;  /* of a module, in nodes of g */
    double total_out;  /* over modules */
    int32_t *order;    /* of visits */
    unsigned char *dirty;
    double *towards;   /* scratch: flow between the current node and a module */
    int32_t *touched;  /* scratch: the modules with towards set */
    int32_t *empty;    /* stack of modules without members */
    int64_t n_empty;
} partition;

static double plogp(double p) {
    return p > 0.0 ? p * log2(p) : 0.0;
}

static void graph_free(graph *g) {
    if (!g)
        return;
    free(g->start);
    free(g->targets);
    free(g->flows);
    free(g->visit);
    free(g->out);
    free(g);
}

static graph *graph_new(int64_t n, int64_t edges) {
    graph *g = calloc(1, sizeof *g);
    if (!g)
        return NULL;
    g->n = n;
    g->start = calloc((size_t)n + 1, sizeof *g->start);
    g->targets = malloc(((size_t)edges + 1) * sizeof *g->targets);
    g->flows = malloc(((size_t)edges + 1) * sizeof *g->flows);
    g->visit = calloc((size_t)n + 1, sizeof *g->visit);
    g->out = calloc((size_t)n + 1, sizeof *g->out);
    if (!g->start || !g->targets || !g->flows || !g->visit || !g->out) {
        graph_free(g);
        return NULL;
    }
    return g;
}

static graph *graph_of_leaves(int64_t n, const int64_t *start, const int32_t *targets,
                              const float *weights) {
    graph *g = graph_new(n, start[n]);
    if (!g)
        return NULL;
    double total = 0.0;
    for (int64_t e = 0; e < start[n]; e++)
        total += weights[e];
    memcpy(g->start, start, ((size_t)n + 1) * sizeof *start);
    if (start[n] > 0)
        memcpy(g->targets, targets, (size_t)start[n] * sizeof *targets);
    for (int64_t i = 0; i < n; i++) {
        for (int64_t e = start[i]; e < start[i + 1]; e++) {
            g->flows[e] = weights[e] / total;
            g->visit[i] += g->flows[e];
        }
        g->out[i] = g->visit[i];
    }
    return g;
}

/* Visits in index order would favour neighbours in memory; a fixed shuffle does not. */
static void shuffle(int32_t *order, int64_t n) {
    uint64_t state = 0x9E3779B97F4A7C15u;
    for (int64_t i = 0; i < n; i++)
        order[i] = (int32_t)i;
    for (int64_t i = n - 1; i > 0; i--) {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        const int64_t j = (int64_t)(state % (uint64_t)(i + 1));
        const int32_t other = order[i];
        order[i] = order[j];
        order[j] = other;
    }
}

static void partition_free(partition *s) {
    free(s->module);
    free(s->visit);
    free(s->out);
    free(s->members);
    free(s->order);
    free(s->dirty);
    free(s->towards);
    free(s->touched);
    free(s->empty);
}

/* `module` (g->n) is the start, with numbers below g->n. */
static int partition_init(partition *s, const graph *g, const int32_t *module) {
    const size_t n = (size_t)g->n + 1;
    memset(s, 0, sizeof *s);
    s->g = g;
    s->module = malloc(n * sizeof *s->module);
    s->visit = calloc(n, sizeof *s->visit);
    s->out = calloc(n, sizeof *s->out);
    s->members = calloc(n, sizeof *s->members);
    s->order = malloc(n * sizeof *s->order);
    s->dirty = malloc(n);
    s->towards = calloc(n, sizeof *s->towards);
    s->touched = malloc(n * sizeof *s->touched);
    s->empty = malloc(n * sizeof *s->empty);
    if (!s->module || !s->visit || !s->out || !s->members || !s->order || !s->dirty
        || !s->towards || !s->touched || !s->empty) {
        partition_free(s);
        return -1;
    }
    memcpy(s->module, module, (size_t)g->n * sizeof *module);
    memset(s->dirty, 1, n);
    shuffle(s->order, g->n);
    for (int64_t i = 0; i < g->n; i++) {
        s->visit[module[i]] += g->visit[i];
        s->members[module[i]]++;
        for (int64_t e = g->start[i]; e < g->start[i + 1]; e++)
            if (module[g->targets[e]] != module[i])
                s->out[module[i]] += g->flows[e];
    }
    for (int64_t m = g->n - 1; m >= 0; m--) {
        s->total_out += s->out[m];
        if (!s->members[m])
            s->empty[s->n_empty++] = (int32_t)m;
    }
    return 0;
}

/* The terms of the map equation that a module contributes:
 * L = plogp(sum out) - 2 sum plogp(out_m) - sum plogp(visit_i) + sum plogp(out_m + visit_m). */
static double module_terms(double out, double visit) {
    return plogp(out + visit) - 2.0 * plogp(out);
}

static void move_node(partition *s, int32_t i, int32_t target, double to_own, double to_target) {
    const int32_t own = s->module[i];
    const double out = s->g->out[i], visit = s->g->visit[i];
    const double own_out = s->out[own] - out + 2.0 * to_own;
    const double target_out = s->out[target] + out - 2.0 * to_target;
    if (!s->members[target])
        s->n_empty--; /* a node moves to an empty module only if it is the top of the stack */
    s->total_out += own_out + target_out - s->out[own] - s->out[target];
    s->members[own]--;
    s->members[target]++;
    s->out[own] = s->members[own] ? own_out : 0.0;
    s->visit[own] = s->members[own] ? s->visit[own] - visit : 0.0;
    s->out[target] = target_out;
    s->visit[target] += visit;
    s->module[i] = target;
    if (!s->members[own])
        s->empty[s->n_empty++] = own;
}

/* Moves node i where the code gets shortest, its own module, a neighbour's or an empty one. */
static int try_node(partition *s, int32_t i) {
    const graph *g = s->g;
    const int32_t own = s->module[i];
    int64_t n_touched = 0;
    for (int64_t e = g->start[i]; e < g->start[i + 1]; e++) {
        const int32_t m = s->module[g->targets[e]];
        if (s->towards[m] == 0.0)
            s->touched[n_touched++] = m;
        s->towards[m] += g->flows[e];
    }
    if (s->members[own] > 1 && s->n_empty > 0)
        s->touched[n_touched++] = s->empty[s->n_empty - 1];

    const double out = g->out[i], visit = g->visit[i], to_own = s->towards[own];
    const double own_out = s->out[own] - out + 2.0 * to_own;
    const double own_change = module_terms(own_out, s->visit[own] - visit)
                              - module_terms(s->out[own], s->visit[own]);
    double best_change = -1e-12;
    int32_t best = own;
    for (int64_t t = 0; t < n_touched; t++) {
        const int32_t m = s->touched[t];
        if (m == own)
            continue;
        const double m_out = s->out[m] + out - 2.0 * s->towards[m];
        const double total = s->total_out + own_out + m_out - s->out[own] - s->out[m];
        const double change = plogp(total) - plogp(s->total_out) + own_change
                              + module_terms(m_out, s->visit[m] + visit)
                              - module_terms(s->out[m], s->visit[m]);
        if (change < best_change) {
            best_change = change;
            best = m;
        }
    }
    const double to_best = s->towards[best];
    for (int64_t t = 0; t < n_touched; t++)
        s->towards[s->touched[t]] = 0.0;
    if (best == own)
        return 0;
    move_node(s, i, best, to_own, to_best);
    for (int64_t e = g->start[i]; e < g->start[i + 1]; e++)
        s->dirty[g->targets[e]] = 1;
    return 1;
}

static int64_t sweep_until_stable(partition *s) {
    int64_t moved_in_all = 0;
    for (int sweep = 0; sweep < 64; sweep++) {
        int64_t moved = 0;
        for (int64_t v = 0; v < s->g->n; v++) {
            const int32_t i = s->order[v];
            if (s->dirty[i]) {
                s->dirty[i] = 0;
                moved += try_node(s, i);
            }
        }
        moved_in_all += moved;
        if (!moved)
            break;
    }
    return moved_in_all;
}

static double code_length(const partition *s, double leaf_terms) {
    double total = 0.0, modules = 0.0;
    for (int64_t m = 0; m < s->g->n; m++) {
        total += s->out[m];
        modules += module_terms(s->out[m], s->visit[m]);
    }
    return plogp(total) + modules - leaf_terms;
}

/* Renumbers by first appearance and returns how many there are; `map` is scratch (n). */
static int64_t renumber(int32_t *module, int64_t n, int32_t *map) {
    int64_t count = 0;
    for (int64_t i = 0; i < n; i++)
        map[i] = -1;
    for (int64_t i = 0; i < n; i++) {
        if (map[module[i]] < 0)
            map[module[i]] = (int32_t)count++;
        module[i] = map[module[i]];
    }
    return count;
}

/* The graph of modules; `module` (g->n) holds 0..count-1. */
static graph *aggregate(const graph *g, const int32_t *module, int64_t count) {
    int64_t *first = calloc((size_t)count + 2, sizeof *first);
    int32_t *members = malloc(((size_t)g->n + 1) * sizeof *members);
    int64_t *last_row = malloc(((size_t)count + 1) * sizeof *last_row);
    int64_t *place = malloc(((size_t)count + 1) * sizeof *place);
    graph *coarse = NULL;
    if (!first || !members || !last_row || !place)
        goto done;
    for (int64_t i = 0; i < g->n; i++)
        first[module[i] + 2]++;
    for (int64_t m = 0; m < count; m++)
        first[m + 2] += first[m + 1];
    for (int64_t i = 0; i < g->n; i++)
        members[first[module[i] + 1]++] = (int32_t)i;
    for (int64_t m = 0; m < count; m++)
        last_row[m] = -1;

    int64_t edges = 0;
    for (int pass = 0; pass < 2; pass++) { /* count, then fill */
        if (pass) {
            coarse = graph_new(count, edges);
            if (!coarse)
                goto done;
            for (int64_t m = 0; m < count; m++)
                last_row[m] = -1;
            edges = 0;
        }
        for (int64_t m = 0; m < count; m++) {
            for (int64_t v = first[m]; v < first[m + 1]; v++) {
                const int32_t i = members[v];
                for (int64_t e = g->start[i]; e < g->start[i + 1]; e++) {
                    const int32_t other = module[g->targets[e]];
                    if (other == m)
                        continue;
                    if (last_row[other] != m) {
                        last_row[other] = m;
                        if (pass) {
                            place[other] = edges;
                            coarse->targets[edges] = other;
                            coarse->flows[edges] = 0.0;
                        }
                        edges++;
                    }
                    if (pass) {
                        coarse->flows[place[other]] += g->flows[e];
                        coarse->out[m] += g->flows[e];
                    }
                }
                if (pass)
                    coarse->visit[m] += g->visit[i];
            }
            if (pass)
                coarse->start[m + 1] = edges;
        }
    }
done:
    free(first);
    free(members);
    free(last_row);
    free(place);
    return coarse;
}

/* Moves nodes of g, then of the graph of its modules and so on, until nothing aggregates. `labels`
 * (g->n) is the start and the result, numbered by first appearance. -1 when memory ran out. */
static int descend(const graph *leaves, int32_t *labels, int32_t *map, double leaf_terms,
                   double *codelength) {
    const graph *g = leaves;
    graph *coarse = NULL;
    int32_t *module = malloc(((size_t)leaves->n + 1) * sizeof *module);
    int status = -1;
    if (!module)
        return -1;
    memcpy(module, labels, (size_t)leaves->n * sizeof *labels);
    for (;;) {
        partition s;
        if (partition_init(&s, g, module))
            goto done;
        const int64_t moved = sweep_until_stable(&s);
        *codelength = code_length(&s, leaf_terms);
        const int64_t count = renumber(s.module, g->n, map);
        if (g == leaves)
            memcpy(labels, s.module, (size_t)g->n * sizeof *labels);
        else
            for (int64_t i = 0; i < leaves->n; i++)
                labels[i] = s.module[labels[i]];
        const int finished = count == g->n || (g != leaves && !moved);
        graph *next = finished ? NULL : aggregate(g, s.module, count);
        partition_free(&s);
        graph_free(coarse);
        coarse = next;
        if (finished) {
            status = 0;
            break;
        }
        if (!next)
            goto done;
        g = next;
        for (int64_t m = 0; m < g->n; m++)
            module[m] = (int32_t)m;
    }
done:
    graph_free(coarse);
    free(module);
    return status;
}

int edgeface_partition(int64_t n, const int64_t *start, const int32_t *targets,
                       const float *weights, int32_t *labels, double *codelength) {
    *codelength = 0.0;
    for (int64_t i = 0; i < n; i++)
        labels[i] = (int32_t)i;
    if (n == 0 || start[n] == 0)
        return 0;
    graph *leaves = graph_of_leaves(n, start, targets, weights);
    int32_t *map = malloc(((size_t)n + 1) * sizeof *map);
    int32_t *best = malloc(((size_t)n + 1) * sizeof *best);
    int status = leaves && map && best ? 0 : -1;
    if (!status) {
        double leaf_terms = 0.0, length = INFINITY;
        for (int64_t i = 0; i < n; i++)
            leaf_terms += plogp(leaves->visit[i]);
        memcpy(best, labels, (size_t)n * sizeof *best);
        /* Fine tuning: leaves may leave the module that aggregation carried them into. */
        for (int round = 0; round < 16 && !status; round++) {
            double shorter;
            status = descend(leaves, best, map, leaf_terms, &shorter);
            if (status || !(shorter < length - 1e-9))
                break;
            length = shorter;
            memcpy(labels, best, (size_t)n * sizeof *labels);
        }
        *codelength = length;
        renumber(labels, n, map);
    }
    graph_free(leaves);
    free(map);
    free(best);
    return status;
}
