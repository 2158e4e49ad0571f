/* conv_plan.cu - a convolution as a graph of cuDNN. Contract: conv_plan.h. */
#include "kernels/cuda/conv_plan.h"

#include <stdlib.h>

typedef cudnnBackendDescriptor_t descriptor;

enum { LISTED = 48, TYPICAL = 16, MOST_MADE = 64 };
enum { ID_X = 1, ID_W, ID_Y, ID_BIAS, ID_SUM, ID_SHIFTED };

static const size_t MOST_WORK = (size_t)512 << 20;

/* Newer headers call these two deprecated; the library still asks for them. */
static const cudnnBackendAttributeName_t PLAN_HANDLE = (cudnnBackendAttributeName_t)400;
static const cudnnBackendAttributeName_t GRAPH_HANDLE = (cudnnBackendAttributeName_t)800;

/* ---- descriptors ---- */

/* Descriptors in the making. The first failure stays, and nothing is called after it. */
struct maker {
    const ts_conv_place *at;
    cudnnStatus_t status;
    int n;
    descriptor made[MOST_MADE];
};

static maker begin(const ts_conv_place *at)
{
    maker m = {};
    m.at = at;
    return m;
}

static bool good(const maker *m)
{
    return m->status == CUDNN_STATUS_SUCCESS;
}

static descriptor make(maker *m, cudnnBackendDescriptorType_t type)
{
    descriptor d = nullptr;
    if (good(m) && m->n == MOST_MADE) m->status = CUDNN_STATUS_INTERNAL_ERROR;
    if (good(m)) m->status = m->at->calls->cudnnBackendCreateDescriptor(type, &d);
    if (good(m)) m->made[m->n++] = d;
    return d;
}

static void set(maker *m, descriptor d, cudnnBackendAttributeName_t name, cudnnBackendAttributeType_t type, int64_t n, const void *p)
{
    if (good(m)) m->status = m->at->calls->cudnnBackendSetAttribute(d, name, type, n, p);
}

static void set_int(maker *m, descriptor d, cudnnBackendAttributeName_t name, int64_t value)
{
    set(m, d, name, CUDNN_TYPE_INT64, 1, &value);
}

static void set_type(maker *m, descriptor d, cudnnBackendAttributeName_t name, cudnnDataType_t type)
{
    set(m, d, name, CUDNN_TYPE_DATA_TYPE, 1, &type);
}

static void link(maker *m, descriptor d, cudnnBackendAttributeName_t name, descriptor to)
{
    set(m, d, name, CUDNN_TYPE_BACKEND_DESCRIPTOR, 1, &to);
}

static void get(maker *m, descriptor d, cudnnBackendAttributeName_t name, cudnnBackendAttributeType_t type, int64_t room, int64_t *n,
                void *p)
{
    *n = 0;
    if (good(m)) m->status = m->at->calls->cudnnBackendGetAttribute(d, name, type, room, n, p);
}

static descriptor finish(maker *m, descriptor d)
{
    if (good(m)) m->status = m->at->calls->cudnnBackendFinalize(d);
    return d;
}

/* All but the first `kept` go. */
static void forget(maker *m, int kept)
{
    while (m->n > kept) m->at->calls->cudnnBackendDestroyDescriptor(m->made[--m->n]);
}

/* ---- the graph ---- */

struct sides {
    int64_t n, c, h, w;
};

/* (n,h,w,c) in memory. */
static descriptor tensor(maker *m, int64_t id, sides s, cudnnDataType_t type)
{
    const int64_t dims[] = { s.n, s.c, s.h, s.w }, strides[] = { s.h * s.w * s.c, 1, s.w * s.c, s.c };
    const bool passed_on = id == ID_SUM || id == ID_SHIFTED;
    const descriptor d = make(m, CUDNN_BACKEND_TENSOR_DESCRIPTOR);
    set_type(m, d, CUDNN_ATTR_TENSOR_DATA_TYPE, type);
    set(m, d, CUDNN_ATTR_TENSOR_DIMENSIONS, CUDNN_TYPE_INT64, 4, dims);
    set(m, d, CUDNN_ATTR_TENSOR_STRIDES, CUDNN_TYPE_INT64, 4, strides);
    set_int(m, d, CUDNN_ATTR_TENSOR_UNIQUE_ID, id);
    set_int(m, d, CUDNN_ATTR_TENSOR_BYTE_ALIGNMENT, 16);
    if (passed_on) set(m, d, CUDNN_ATTR_TENSOR_IS_VIRTUAL, CUDNN_TYPE_BOOLEAN, 1, &passed_on);
    return finish(m, d);
}

static descriptor convolution(maker *m, const ts_conv2d *c)
{
    const int64_t pads[] = { c->pad_lo, c->pad_lo }, strides[] = { c->stride, c->stride }, ones[] = { 1, 1 };
    const cudnnConvolutionMode_t mode = CUDNN_CROSS_CORRELATION;
    const descriptor d = make(m, CUDNN_BACKEND_CONVOLUTION_DESCRIPTOR);
    set_type(m, d, CUDNN_ATTR_CONVOLUTION_COMP_TYPE, CUDNN_DATA_FLOAT);
    set(m, d, CUDNN_ATTR_CONVOLUTION_CONV_MODE, CUDNN_TYPE_CONVOLUTION_MODE, 1, &mode);
    set_int(m, d, CUDNN_ATTR_CONVOLUTION_SPATIAL_DIMS, 2);
    set(m, d, CUDNN_ATTR_CONVOLUTION_DILATIONS, CUDNN_TYPE_INT64, 2, ones);
    set(m, d, CUDNN_ATTR_CONVOLUTION_FILTER_STRIDES, CUDNN_TYPE_INT64, 2, strides);
    set(m, d, CUDNN_ATTR_CONVOLUTION_PRE_PADDINGS, CUDNN_TYPE_INT64, 2, pads);
    set(m, d, CUDNN_ATTR_CONVOLUTION_POST_PADDINGS, CUDNN_TYPE_INT64, 2, pads);
    return finish(m, d);
}

/* cuDNN's names for the three passes. */
struct names {
    cudnnBackendDescriptorType_t type;
    cudnnBackendAttributeName_t alpha, beta, convolution, x, w, y;
};

static const names NAMES[] = {
    { CUDNN_BACKEND_OPERATION_CONVOLUTION_FORWARD_DESCRIPTOR, CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_ALPHA,
      CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_BETA, CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_CONV_DESC,
      CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_X, CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_W,
      CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_Y },
    { CUDNN_BACKEND_OPERATION_CONVOLUTION_BACKWARD_DATA_DESCRIPTOR, CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_DATA_ALPHA,
      CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_DATA_BETA, CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_DATA_CONV_DESC,
      CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_DATA_DX, CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_DATA_W,
      CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_DATA_DY },
    { CUDNN_BACKEND_OPERATION_CONVOLUTION_BACKWARD_FILTER_DESCRIPTOR, CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_FILTER_ALPHA,
      CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_FILTER_BETA, CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_FILTER_CONV_DESC,
      CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_FILTER_X, CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_FILTER_DW,
      CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_FILTER_DY },
};

static descriptor convolve(maker *m, const ts_conv_graph *g, descriptor x, descriptor w, descriptor y)
{
    const names *name = &NAMES[g->pass];
    const float one = 1, zero = 0;
    const descriptor how = convolution(m, &g->shape), d = make(m, name->type);
    set(m, d, name->alpha, CUDNN_TYPE_FLOAT, 1, &one);
    set(m, d, name->beta, CUDNN_TYPE_FLOAT, 1, &zero);
    link(m, d, name->convolution, how);
    link(m, d, name->x, x);
    link(m, d, name->w, w);
    link(m, d, name->y, y);
    return finish(m, d);
}

/* to = from + bias, or from where there is none. */
static descriptor pass_on(maker *m, descriptor from, descriptor bias, descriptor to)
{
    const cudnnPointwiseMode_t mode = bias ? CUDNN_POINTWISE_ADD : CUDNN_POINTWISE_IDENTITY;
    const descriptor how = make(m, CUDNN_BACKEND_POINTWISE_DESCRIPTOR);
    set(m, how, CUDNN_ATTR_POINTWISE_MODE, CUDNN_TYPE_POINTWISE_MODE, 1, &mode);
    set_type(m, how, CUDNN_ATTR_POINTWISE_MATH_PREC, CUDNN_DATA_FLOAT);
    finish(m, how);
    const descriptor d = make(m, CUDNN_BACKEND_OPERATION_POINTWISE_DESCRIPTOR);
    link(m, d, CUDNN_ATTR_OPERATION_POINTWISE_PW_DESCRIPTOR, how);
    link(m, d, CUDNN_ATTR_OPERATION_POINTWISE_XDESC, from);
    if (bias) link(m, d, CUDNN_ATTR_OPERATION_POINTWISE_BDESC, bias);
    link(m, d, CUDNN_ATTR_OPERATION_POINTWISE_YDESC, to);
    return finish(m, d);
}

/* The convolution; forward the bias; of bfloat16 operands the identity, see conv_plan.h. */
static descriptor graph(maker *m, const ts_conv_graph *g)
{
    const ts_conv2d *c = &g->shape;
    const bool narrow = g->operands == TS_BF16, adds = g->pass == TS_CONV_FWD;
    const cudnnDataType_t given = narrow ? CUDNN_DATA_BFLOAT16 : CUDNN_DATA_FLOAT;
    const sides size[] = { { c->B, c->O, ts_conv2d_out(c, c->Y), ts_conv2d_out(c, c->X) }, { c->B, c->C, c->Y, c->X },
                           { c->O, c->C, c->k, c->k } };
    const int64_t id[] = { ID_Y, ID_X, ID_W };
    descriptor is[3], ops[3];
    int n = 0;
    for (int i = 0; i < 3; i++) is[i] = tensor(m, id[i], size[i], i == g->pass ? CUDNN_DATA_FLOAT : given);

    const descriptor result = is[g->pass];
    const descriptor sum = adds || narrow ? tensor(m, ID_SUM, size[g->pass], CUDNN_DATA_FLOAT) : result;
    is[g->pass] = sum;
    ops[n++] = convolve(m, g, is[1], is[2], is[0]);
    descriptor last = sum;
    if (adds) {
        const descriptor bias = tensor(m, ID_BIAS, { 1, c->O, 1, 1 }, CUDNN_DATA_FLOAT);
        last = narrow ? tensor(m, ID_SHIFTED, size[g->pass], CUDNN_DATA_FLOAT) : result;
        ops[n++] = pass_on(m, sum, bias, last);
    }
    if (narrow) ops[n++] = pass_on(m, last, nullptr, result);

    const descriptor d = make(m, CUDNN_BACKEND_OPERATIONGRAPH_DESCRIPTOR);
    set(m, d, CUDNN_ATTR_OPERATIONGRAPH_OPS, CUDNN_TYPE_BACKEND_DESCRIPTOR, n, ops);
    if (m->at->handle) set(m, d, GRAPH_HANDLE, CUDNN_TYPE_HANDLE, 1, &m->at->handle);
    return finish(m, d);
}

/* ---- choosing ---- */

/* Without a device: the properties that stand for it. */
static void place(maker *m, descriptor d, int name)
{
    if (m->at->properties) link(m, d, (cudnnBackendAttributeName_t)name, m->at->properties);
}

enum { HEURISTICS_DEVICE = 204, PLAN_DEVICE = 407, ENGINE_DEVICE = 1307 }; /* CUDNN_ATTR_..._DEVICEPROP since 9.8 */

static bool suits_notes(maker *m, descriptor engine, const ts_conv_graph *g)
{
    cudnnBackendNumericalNote_t notes[CUDNN_NUMERICAL_NOTE_TYPE_COUNT];
    cudnnBackendBehaviorNote_t manners[CUDNN_BEHAVIOR_NOTE_TYPE_COUNT];
    int64_t n, k;
    get(m, engine, CUDNN_ATTR_ENGINE_NUMERICAL_NOTE, CUDNN_TYPE_NUMERICAL_NOTE, CUDNN_NUMERICAL_NOTE_TYPE_COUNT, &n, notes);
    get(m, engine, CUDNN_ATTR_ENGINE_BEHAVIOR_NOTE, CUDNN_TYPE_BEHAVIOR_NOTE, CUDNN_BEHAVIOR_NOTE_TYPE_COUNT, &k, manners);
    bool suits = good(m);
    for (int64_t i = 0; i < n; i++)
        suits = suits && (notes[i] == CUDNN_NUMERICAL_NOTE_STRICT_NAN_PROP ||
                          (notes[i] == CUDNN_NUMERICAL_NOTE_TENSOR_CORE && g->shape.math == TS_MATH_BF16));
    for (int64_t i = 0; i < k; i++)
        suits = suits && (manners[i] != CUDNN_BEHAVIOR_NOTE_RUNTIME_COMPILATION || g->operands == TS_BF16);
    return suits;
}

static void read_knobs(maker *m, descriptor config, ts_conv_engine *e)
{
    descriptor choices[TS_CONV_KNOBS];
    int64_t n, one;
    for (int i = 0; i < TS_CONV_KNOBS; i++) choices[i] = make(m, CUDNN_BACKEND_KNOB_CHOICE_DESCRIPTOR);
    get(m, config, CUDNN_ATTR_ENGINECFG_KNOB_CHOICES, CUDNN_TYPE_BACKEND_DESCRIPTOR, TS_CONV_KNOBS, &n, choices);
    e->knobs = (int)n;
    for (int i = 0; i < e->knobs; i++) {
        get(m, choices[i], CUDNN_ATTR_KNOB_CHOICE_KNOB_TYPE, CUDNN_TYPE_KNOB_TYPE, 1, &one, &e->knob[i]);
        get(m, choices[i], CUDNN_ATTR_KNOB_CHOICE_KNOB_VALUE, CUDNN_TYPE_INT64, 1, &one, &e->value[i]);
    }
}

/* Does what cuDNN lists suit? Then *e is that. */
static bool read_engine(const ts_conv_place *at, descriptor config, const ts_conv_graph *g, ts_conv_engine *e)
{
    maker m = begin(at);
    int64_t one;
    descriptor engine = make(&m, CUDNN_BACKEND_ENGINE_DESCRIPTOR);
    get(&m, config, CUDNN_ATTR_ENGINECFG_ENGINE, CUDNN_TYPE_BACKEND_DESCRIPTOR, 1, &one, &engine);
    bool suits = suits_notes(&m, engine, g);
    if (suits) {
        get(&m, engine, CUDNN_ATTR_ENGINE_GLOBAL_INDEX, CUDNN_TYPE_INT64, 1, &one, &e->index);
        read_knobs(&m, config, e);
        suits = good(&m);
    }
    forget(&m, 0);
    return suits;
}

/* Those that cuDNN lists in this mode and that suit. */
static int engines_of(maker *m, descriptor of, const ts_conv_graph *g, cudnnBackendHeurMode_t mode, ts_conv_engine *e, int room)
{
    descriptor listed[LISTED];
    int64_t n;
    int found = 0;
    const int before = m->n;
    const descriptor d = make(m, CUDNN_BACKEND_ENGINEHEUR_DESCRIPTOR);
    link(m, d, CUDNN_ATTR_ENGINEHEUR_OPERATION_GRAPH, of);
    set(m, d, CUDNN_ATTR_ENGINEHEUR_MODE, CUDNN_TYPE_HEUR_MODE, 1, &mode);
    place(m, d, HEURISTICS_DEVICE);
    finish(m, d);
    for (int i = 0; i < LISTED; i++) listed[i] = make(m, CUDNN_BACKEND_ENGINECFG_DESCRIPTOR);
    get(m, d, CUDNN_ATTR_ENGINEHEUR_RESULTS, CUDNN_TYPE_BACKEND_DESCRIPTOR, LISTED, &n, listed);
    for (int64_t i = 0; good(m) && i < n && found < room; i++) found += read_engine(m->at, listed[i], g, e + found);
    forget(m, before);
    return found;
}

int ts_conv_engines(const ts_conv_place *at, const ts_conv_graph *g, ts_conv_engine e[TS_CONV_ENGINES])
{
    maker m = begin(at);
    ts_conv_graph typical = *g;
    typical.shape.B = TYPICAL;
    const descriptor of = graph(&m, &typical);
    int n = engines_of(&m, of, g, CUDNN_HEUR_MODE_A, e, TS_CONV_ENGINES);
    if (n < TS_CONV_ENGINES) n += engines_of(&m, of, g, CUDNN_HEUR_MODE_FALLBACK, e + n, TS_CONV_ENGINES - n);
    forget(&m, 0);
    return n;
}

/* ---- plans ---- */

struct ts_conv_plan {
    maker m; /* keeps all that the plan stands on */
    descriptor plan;
    ts_conv_pass pass;
    size_t work;
};

static descriptor configure(maker *m, descriptor of, const ts_conv_engine *e)
{
    descriptor choices[TS_CONV_KNOBS];
    const descriptor engine = make(m, CUDNN_BACKEND_ENGINE_DESCRIPTOR), d = make(m, CUDNN_BACKEND_ENGINECFG_DESCRIPTOR);
    link(m, engine, CUDNN_ATTR_ENGINE_OPERATION_GRAPH, of);
    set_int(m, engine, CUDNN_ATTR_ENGINE_GLOBAL_INDEX, e->index);
    place(m, engine, ENGINE_DEVICE);
    finish(m, engine);
    for (int i = 0; i < e->knobs; i++) {
        choices[i] = make(m, CUDNN_BACKEND_KNOB_CHOICE_DESCRIPTOR);
        set(m, choices[i], CUDNN_ATTR_KNOB_CHOICE_KNOB_TYPE, CUDNN_TYPE_KNOB_TYPE, 1, &e->knob[i]);
        set_int(m, choices[i], CUDNN_ATTR_KNOB_CHOICE_KNOB_VALUE, e->value[i]);
        finish(m, choices[i]);
    }
    link(m, d, CUDNN_ATTR_ENGINECFG_ENGINE, engine);
    if (e->knobs) set(m, d, CUDNN_ATTR_ENGINECFG_KNOB_CHOICES, CUDNN_TYPE_BACKEND_DESCRIPTOR, e->knobs, choices);
    return finish(m, d);
}

cudnnStatus_t ts_conv_plan_new(ts_conv_plan **made, const ts_conv_place *at, const ts_conv_graph *g, const ts_conv_engine *e)
{
    ts_conv_plan *p = (ts_conv_plan *)calloc(1, sizeof *p);
    int64_t one, bytes = 0;
    *made = nullptr;
    if (!p) return CUDNN_STATUS_INTERNAL_ERROR;
    maker *m = &p->m;
    *m = begin(at);
    p->pass = g->pass;
    const descriptor config = configure(m, graph(m, g), e);
    p->plan = make(m, CUDNN_BACKEND_EXECUTION_PLAN_DESCRIPTOR);
    link(m, p->plan, CUDNN_ATTR_EXECUTION_PLAN_ENGINE_CONFIG, config);
    if (at->handle) set(m, p->plan, PLAN_HANDLE, CUDNN_TYPE_HANDLE, 1, &at->handle);
    place(m, p->plan, PLAN_DEVICE);
    finish(m, p->plan);
    get(m, p->plan, CUDNN_ATTR_EXECUTION_PLAN_WORKSPACE_SIZE, CUDNN_TYPE_INT64, 1, &one, &bytes);
    p->work = (size_t)bytes;
    if (good(m) && p->work > MOST_WORK) m->status = CUDNN_STATUS_NOT_SUPPORTED;
    const cudnnStatus_t status = m->status;
    if (status == CUDNN_STATUS_SUCCESS)
        *made = p;
    else
        ts_conv_plan_free(p);
    return status;
}

size_t ts_conv_plan_work(const ts_conv_plan *p)
{
    return p->work;
}

void ts_conv_plan_free(ts_conv_plan *p)
{
    if (!p) return;
    forget(&p->m, 0);
    free(p);
}

cudnnStatus_t ts_conv_plan_run(const ts_conv_place *at, const ts_conv_plan *p, ts_conv_operands o, void *work)
{
    const int64_t ids[] = { ID_X, ID_W, ID_Y, ID_BIAS };
    const void *const addresses[] = { o.x, o.w, o.y, o.bias };
    const int n = p->pass == TS_CONV_FWD ? 4 : 3;
    maker m = begin(at);
    const descriptor d = make(&m, CUDNN_BACKEND_VARIANT_PACK_DESCRIPTOR);
    set(&m, d, CUDNN_ATTR_VARIANT_PACK_UNIQUE_IDS, CUDNN_TYPE_INT64, n, ids);
    set(&m, d, CUDNN_ATTR_VARIANT_PACK_DATA_POINTERS, CUDNN_TYPE_VOID_PTR, n, addresses);
    set(&m, d, CUDNN_ATTR_VARIANT_PACK_WORKSPACE, CUDNN_TYPE_VOID_PTR, 1, &work);
    finish(&m, d);
    if (good(&m)) m.status = at->calls->cudnnBackendExecute(at->handle, p->plan, d);
    forget(&m, 0);
    return m.status;
}
