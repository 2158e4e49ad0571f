/* cudnn.cpp - cuDNN of the emulated device: graphs of a convolution, with a bias and the identity behind it. Contract: emu.h,
 * cuDNN's own manual. The lists of engines hold many that nobody should take. */
#include "tests/emu/include/cudnn.h"

#include <algorithm>
#include <map>
#include <memory>
#include <vector>

#include "kernels/cuda/cudnn.h"
#include "tests/emu/convolution.h"
#include "tests/emu/emu.h"

struct emu_cudnn {
    cudaStream_t stream;
};

namespace
{

struct body;
typedef std::shared_ptr<body> link;

/* What a descriptor stands for: those that refer to it keep it. */
struct body {
    cudnnBackendDescriptorType_t type;
    bool final;
    std::map<int, std::vector<char>> bytes;
    std::map<int, std::vector<link>> links;
    size_t work; /* of a plan */
};

} // namespace

struct emu_cudnn_descriptor {
    link b;
};

namespace
{

using emu::convolution;

/* TS_EMU_CUDNN: "none", there is no cuDNN; "short", its lists hold no engine that can be used; "late", it takes a shape and
 * then does not do it; "ready", it compiles nothing. */
bool mood(const char *what)
{
    const char *text = getenv("TS_EMU_CUDNN");
    return text && strcmp(text, what) == 0;
}

/* ---- attributes ---- */

template <class T> std::vector<T> all(const body &b, int name)
{
    const auto found = b.bytes.find(name);
    if (found == b.bytes.end()) return {};
    std::vector<T> x(found->second.size() / sizeof(T));
    memcpy(x.data(), found->second.data(), x.size() * sizeof(T));
    return x;
}

/* The one value there; -1 if there is none. */
template <class T> T one(const body &b, int name)
{
    const std::vector<T> x = all<T>(b, name);
    return x.size() == 1 ? x[0] : (T)-1;
}

link linked(const body &b, int name)
{
    const auto found = b.links.find(name);
    return found == b.links.end() || found->second.size() != 1 || !found->second[0]->final ? nullptr : found->second[0];
}

size_t size_of(cudnnBackendAttributeType_t type)
{
    switch (type) {
    case CUDNN_TYPE_BOOLEAN: return 1;
    case CUDNN_TYPE_INT64:
    case CUDNN_TYPE_HANDLE:
    case CUDNN_TYPE_VOID_PTR: return 8;
    default: return 4;
    }
}

typedef std::vector<int64_t> numbers;

/* ---- what may be finished ---- */

bool fits_tensor(const body &b)
{
    const numbers n = all<int64_t>(b, CUDNN_ATTR_TENSOR_DIMENSIONS);
    const int type = one<int>(b, CUDNN_ATTR_TENSOR_DATA_TYPE);
    return n.size() == 4 && *std::min_element(n.begin(), n.end()) > 0 &&
           all<int64_t>(b, CUDNN_ATTR_TENSOR_STRIDES) == numbers({ n[1] * n[2] * n[3], 1, n[1] * n[3], n[1] }) &&
           (type == CUDNN_DATA_FLOAT || type == CUDNN_DATA_BFLOAT16) && one<int64_t>(b, CUDNN_ATTR_TENSOR_UNIQUE_ID) > 0 &&
           one<int64_t>(b, CUDNN_ATTR_TENSOR_BYTE_ALIGNMENT) == 16;
}

bool fits_convolution(const body &b)
{
    const numbers pads = all<int64_t>(b, CUDNN_ATTR_CONVOLUTION_PRE_PADDINGS), strides = all<int64_t>(b, CUDNN_ATTR_CONVOLUTION_FILTER_STRIDES);
    return one<int>(b, CUDNN_ATTR_CONVOLUTION_COMP_TYPE) == CUDNN_DATA_FLOAT &&
           one<int>(b, CUDNN_ATTR_CONVOLUTION_CONV_MODE) == CUDNN_CROSS_CORRELATION &&
           one<int64_t>(b, CUDNN_ATTR_CONVOLUTION_SPATIAL_DIMS) == 2 && pads.size() == 2 && pads[0] == pads[1] &&
           pads == all<int64_t>(b, CUDNN_ATTR_CONVOLUTION_POST_PADDINGS) && strides.size() == 2 && strides[0] == strides[1] &&
           all<int64_t>(b, CUDNN_ATTR_CONVOLUTION_DILATIONS) == numbers({ 1, 1 });
}

bool is_virtual(const link &tensor)
{
    return all<char>(*tensor, CUDNN_ATTR_TENSOR_IS_VIRTUAL) == std::vector<char>({ 1 });
}

bool same_size(const link &a, const link &b)
{
    return all<int64_t>(*a, CUDNN_ATTR_TENSOR_DIMENSIONS) == all<int64_t>(*b, CUDNN_ATTR_TENSOR_DIMENSIONS);
}

int type_of(const link &tensor)
{
    return one<int>(*tensor, CUDNN_ATTR_TENSOR_DATA_TYPE);
}

bool fits_pointwise(const body &b)
{
    const link how = linked(b, CUDNN_ATTR_OPERATION_POINTWISE_PW_DESCRIPTOR), x = linked(b, CUDNN_ATTR_OPERATION_POINTWISE_XDESC);
    const link y = linked(b, CUDNN_ATTR_OPERATION_POINTWISE_YDESC), with = linked(b, CUDNN_ATTR_OPERATION_POINTWISE_BDESC);
    if (!how || !x || !y || !same_size(x, y) || !is_virtual(x) || type_of(x) != CUDNN_DATA_FLOAT || type_of(y) != CUDNN_DATA_FLOAT)
        return false;
    const int mode = one<int>(*how, CUDNN_ATTR_POINTWISE_MODE);
    if (mode == CUDNN_POINTWISE_IDENTITY) return !with;
    const int64_t channels = all<int64_t>(*x, CUDNN_ATTR_TENSOR_DIMENSIONS)[1];
    return mode == CUDNN_POINTWISE_ADD && with && type_of(with) == CUDNN_DATA_FLOAT && !is_virtual(with) &&
           all<int64_t>(*with, CUDNN_ATTR_TENSOR_DIMENSIONS) == numbers({ 1, channels, 1, 1 });
}

/* The three tensors of a convolution, and which it computes. */
struct operation {
    convolution c;
    link x, w, y;
    const link &result() const
    {
        return c.pass == convolution::FORWARD ? y : c.pass == convolution::TO_DATA ? x : w;
    }
};

struct names {
    int alpha, beta, convolution, x, w, y;
};

bool read_operation(const body &b, operation *o)
{
    static const names NAMES[] = {
        { CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_ALPHA, CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_BETA,
          CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_CONV_DESC, CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_X,
          CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_W, CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_Y },
        { CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_DATA_ALPHA, CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_DATA_BETA,
          CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_DATA_CONV_DESC, CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_DATA_DX,
          CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_DATA_W, CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_DATA_DY },
        { CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_FILTER_ALPHA, CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_FILTER_BETA,
          CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_FILTER_CONV_DESC, CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_FILTER_X,
          CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_FILTER_DW, CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_FILTER_DY },
    };
    const int pass = b.type == CUDNN_BACKEND_OPERATION_CONVOLUTION_FORWARD_DESCRIPTOR         ? convolution::FORWARD
                     : b.type == CUDNN_BACKEND_OPERATION_CONVOLUTION_BACKWARD_DATA_DESCRIPTOR ? convolution::TO_DATA
                                                                                              : convolution::TO_WEIGHTS;
    const names &n = NAMES[pass];
    const link how = linked(b, n.convolution);
    o->x = linked(b, n.x), o->w = linked(b, n.w), o->y = linked(b, n.y);
    if (!how || !o->x || !o->w || !o->y || one<float>(b, n.alpha) != 1 || one<float>(b, n.beta) != 0) return false;
    const numbers x = all<int64_t>(*o->x, CUDNN_ATTR_TENSOR_DIMENSIONS), w = all<int64_t>(*o->w, CUDNN_ATTR_TENSOR_DIMENSIONS);
    const numbers y = all<int64_t>(*o->y, CUDNN_ATTR_TENSOR_DIMENSIONS);
    const int64_t pad = all<int64_t>(*how, CUDNN_ATTR_CONVOLUTION_PRE_PADDINGS)[0];
    const int64_t stride = all<int64_t>(*how, CUDNN_ATTR_CONVOLUTION_FILTER_STRIDES)[0];
    const auto out = [&](int64_t side) { return (side + 2 * pad - w[2]) / stride + 1; };
    o->c = { (decltype(o->c.pass))pass, x[0], x[2], x[3], x[1], w[0], y[2], y[3], w[2], pad, stride, convolution::FLOAT, 0, false };
    const link others[] = { pass == convolution::FORWARD ? o->x : o->y, pass == convolution::TO_WEIGHTS ? o->x : o->w };
    if (type_of(others[0]) == CUDNN_DATA_BFLOAT16) o->c.operands = convolution::BF16;
    return stride > 0 && w[2] == w[3] && w[1] == x[1] && y[0] == x[0] && y[1] == w[0] && x[2] + 2 * pad >= w[2] &&
           x[3] + 2 * pad >= w[2] && y[2] == out(x[2]) && y[3] == out(x[3]) && type_of(others[0]) == type_of(others[1]) &&
           !is_virtual(others[0]) && !is_virtual(others[1]) && type_of(o->result()) == CUDNN_DATA_FLOAT;
}

/* A graph: the convolution and where its tensors are to be found. */
struct job {
    convolution c;
    int64_t x, w, y, bias; /* unique names, 0 for no bias */
    bool compiled;
};

int64_t name_of(const link &tensor)
{
    return one<int64_t>(*tensor, CUDNN_ATTR_TENSOR_UNIQUE_ID);
}

bool read_graph(const body &b, job *j)
{
    const auto found = b.links.find(CUDNN_ATTR_OPERATIONGRAPH_OPS);
    operation o = {};
    if (found == b.links.end() || one<int64_t>(b, CUDNN_ATTR_OPERATIONGRAPH_HANDLE) == -1) return false;
    const std::vector<link> &ops = found->second;
    if (ops.empty() || !ops[0]->final || !read_operation(*ops[0], &o)) return false;
    *j = { o.c, name_of(o.x), name_of(o.w), name_of(o.y), 0, false };
    link last = o.result();
    for (size_t i = 1; i < ops.size(); i++) {
        const body &op = *ops[i];
        if (!op.final || op.type != CUDNN_BACKEND_OPERATION_POINTWISE_DESCRIPTOR || linked(op, CUDNN_ATTR_OPERATION_POINTWISE_XDESC) != last)
            return false;
        const link with = linked(op, CUDNN_ATTR_OPERATION_POINTWISE_BDESC);
        if (with && (j->bias || o.c.pass != convolution::FORWARD)) return false;
        if (with) j->bias = name_of(with);
        j->compiled = j->compiled || !with;
        last = linked(op, CUDNN_ATTR_OPERATION_POINTWISE_YDESC);
    }
    (o.c.pass == convolution::FORWARD ? j->y : o.c.pass == convolution::TO_DATA ? j->x : j->w) = name_of(last);
    return !is_virtual(last);
}

/* ---- engines ---- */

typedef std::vector<cudnnBackendNumericalNote_t> notes;

struct engine {
    int64_t index;
    notes numerical;
    bool compiled;
    int64_t most; /* pictures; for more it wants more work space than there is */
};

enum { MANY = 1 << 30, FEW = 4, BAD = 5 };

static const cudnnBackendNumericalNote_t TENSOR_CORE = CUDNN_NUMERICAL_NOTE_TENSOR_CORE;

/* Of a graph, the best first. What a convolution, or one with a bias, is computed by comes with cuDNN; the rest is compiled. */
std::vector<engine> engines(const job &j)
{
    const engine bad[BAD] = { { 1, { CUDNN_NUMERICAL_NOTE_WINOGRAD }, j.compiled, MANY },
                           { 2, { TENSOR_CORE, CUDNN_NUMERICAL_NOTE_NONDETERMINISTIC }, j.compiled, MANY },
                           { 3, { CUDNN_NUMERICAL_NOTE_FFT }, j.compiled, MANY },
                           { 4, { TENSOR_CORE, CUDNN_NUMERICAL_NOTE_DOWN_CONVERT_INPUTS }, j.compiled, MANY },
                           { 5, { TENSOR_CORE, CUDNN_NUMERICAL_NOTE_REDUCED_PRECISION_REDUCTION }, j.compiled, MANY } };
    const engine ready[] = { { 6, { TENSOR_CORE }, true, MANY },
                             { 7, { TENSOR_CORE }, false, 0 },
                             { 8, { TENSOR_CORE }, false, FEW },
                             { 9, { CUDNN_NUMERICAL_NOTE_STRICT_NAN_PROP }, false, FEW } };
    const engine compiled[] = { { 10, { TENSOR_CORE }, true, 0 }, { 11, { TENSOR_CORE }, true, FEW } };
    std::vector<engine> list(bad, bad + BAD);
    if (mood("short") || (j.compiled && mood("ready")) || (j.c.operands == convolution::BF16 && !j.compiled)) return list;
    if (j.compiled)
        list.insert(list.end(), compiled, compiled + 2);
    else
        list.insert(list.end(), ready, ready + 4);
    return list;
}

const engine *engine_of(const std::vector<engine> &list, int64_t index)
{
    for (const engine &e : list)
        if (e.index == index) return &e;
    return nullptr;
}

bool read_engine(const body &b, job *j, engine *e)
{
    const link graph = linked(b, CUDNN_ATTR_ENGINE_OPERATION_GRAPH);
    if (!graph || !read_graph(*graph, j)) return false;
    const std::vector<engine> list = engines(*j);
    const engine *found = engine_of(list, one<int64_t>(b, CUDNN_ATTR_ENGINE_GLOBAL_INDEX));
    if (found) *e = *found;
    return found != nullptr;
}

template <class T> std::vector<char> bytes_of(T value)
{
    const char *p = (const char *)&value;
    return std::vector<char>(p, p + sizeof value);
}

/* The one knob turns the order of sums. It is set for the number of pictures at hand: TURN_TYPICAL for 16. */
enum { TURN_TYPICAL = 2 };

int64_t turn_for(int64_t B)
{
    return B % 5 + 1;
}

link configured(const link &graph, const engine &e, int64_t B)
{
    link knob(new body{ CUDNN_BACKEND_KNOB_CHOICE_DESCRIPTOR, true, {}, {}, 0 });
    knob->bytes[CUDNN_ATTR_KNOB_CHOICE_KNOB_TYPE] = bytes_of(CUDNN_KNOB_TYPE_TILE_SIZE);
    knob->bytes[CUDNN_ATTR_KNOB_CHOICE_KNOB_VALUE] = bytes_of(turn_for(B));
    link is(new body{ CUDNN_BACKEND_ENGINE_DESCRIPTOR, true, {}, {}, 0 });
    is->bytes[CUDNN_ATTR_ENGINE_GLOBAL_INDEX] = bytes_of(e.index);
    is->links[CUDNN_ATTR_ENGINE_OPERATION_GRAPH] = { graph };
    link b(new body{ CUDNN_BACKEND_ENGINECFG_DESCRIPTOR, true, {}, {}, 0 });
    b->links[CUDNN_ATTR_ENGINECFG_ENGINE] = { is };
    b->links[CUDNN_ATTR_ENGINECFG_KNOB_CHOICES] = { knob };
    return b;
}

std::vector<link> results(const body &heuristics)
{
    job j;
    std::vector<link> all;
    const link graph = linked(heuristics, CUDNN_ATTR_ENGINEHEUR_OPERATION_GRAPH);
    if (!graph || !read_graph(*graph, &j)) return all;
    for (const engine &e : engines(j)) all.push_back(configured(graph, e, j.c.B));
    if (one<int>(heuristics, CUDNN_ATTR_ENGINEHEUR_MODE) == CUDNN_HEUR_MODE_FALLBACK && all.size() > 1) all.erase(all.begin(), all.end() - 1);
    return all;
}

/* ---- plans ---- */

bool read_plan(const body &b, job *j, engine *e)
{
    const link config = linked(b, CUDNN_ATTR_EXECUTION_PLAN_ENGINE_CONFIG);
    const link is = config ? linked(*config, CUDNN_ATTR_ENGINECFG_ENGINE) : nullptr;
    const link knob = config ? linked(*config, CUDNN_ATTR_ENGINECFG_KNOB_CHOICES) : nullptr;
    if (!is || one<int64_t>(b, CUDNN_ATTR_EXECUTION_PLAN_HANDLE) == -1 || !read_engine(*is, j, e)) return false;
    const int64_t value = knob ? one<int64_t>(*knob, CUDNN_ATTR_KNOB_CHOICE_KNOB_VALUE) : turn_for(j->c.B), taps = j->c.k * j->c.k;
    j->c.turn = (value - TURN_TYPICAL + 5 * taps) % taps;
    j->c.careless = e->index <= BAD;
    if (j->c.operands == convolution::FLOAT && e->numerical[0] == TENSOR_CORE) j->c.operands = convolution::TF32;
    return true;
}

bool finish_plan(body *b)
{
    job j;
    engine e;
    if (!read_plan(*b, &j, &e)) return false;
    b->work = j.c.B > e.most ? (size_t)1 << 40 : 16 + (size_t)(j.c.k * j.c.k * j.c.O) * 4;
    return true;
}

bool fits(body *b)
{
    job j;
    engine e;
    operation o;
    switch (b->type) {
    case CUDNN_BACKEND_TENSOR_DESCRIPTOR: return fits_tensor(*b);
    case CUDNN_BACKEND_CONVOLUTION_DESCRIPTOR: return fits_convolution(*b);
    case CUDNN_BACKEND_POINTWISE_DESCRIPTOR: return one<int>(*b, CUDNN_ATTR_POINTWISE_MATH_PREC) == CUDNN_DATA_FLOAT;
    case CUDNN_BACKEND_OPERATION_POINTWISE_DESCRIPTOR: return fits_pointwise(*b);
    case CUDNN_BACKEND_OPERATIONGRAPH_DESCRIPTOR: return read_graph(*b, &j);
    case CUDNN_BACKEND_ENGINEHEUR_DESCRIPTOR: return linked(*b, CUDNN_ATTR_ENGINEHEUR_OPERATION_GRAPH) != nullptr;
    case CUDNN_BACKEND_ENGINE_DESCRIPTOR: return read_engine(*b, &j, &e);
    case CUDNN_BACKEND_ENGINECFG_DESCRIPTOR: return linked(*b, CUDNN_ATTR_ENGINECFG_ENGINE) != nullptr;
    case CUDNN_BACKEND_KNOB_CHOICE_DESCRIPTOR: return one<int64_t>(*b, CUDNN_ATTR_KNOB_CHOICE_KNOB_VALUE) > 0;
    case CUDNN_BACKEND_EXECUTION_PLAN_DESCRIPTOR: return finish_plan(b);
    case CUDNN_BACKEND_VARIANT_PACK_DESCRIPTOR: return true;
    default: return read_operation(*b, &o);
    }
}

template <class T> void give(const std::vector<T> &x, int64_t room, int64_t *n, void *p)
{
    *n = std::min(room, (int64_t)x.size());
    memcpy(p, x.data(), *n * sizeof(T));
}

/* What is asked of an engine that is not simply stored. */
void give_notes(const body &b, int name, int64_t room, int64_t *n, void *p)
{
    job j;
    engine e = {};
    read_engine(b, &j, &e);
    std::vector<cudnnBackendBehaviorNote_t> manners = { CUDNN_BEHAVIOR_NOTE_SUPPORTS_CUDA_GRAPH_NATIVE_API };
    if (e.compiled) manners.push_back(CUDNN_BEHAVIOR_NOTE_RUNTIME_COMPILATION);
    if (name == CUDNN_ATTR_ENGINE_BEHAVIOR_NOTE)
        give(manners, room, n, p);
    else
        give(e.numerical, room, n, p);
}

} // namespace

cudnnStatus_t cudnnCreate(cudnnHandle_t *h)
{
    *h = nullptr;
    if (mood("none")) return CUDNN_STATUS_NOT_INITIALIZED;
    if (emu::refuses()) return CUDNN_STATUS_INTERNAL_ERROR;
    *h = new emu_cudnn();
    return CUDNN_STATUS_SUCCESS;
}

cudnnStatus_t cudnnDestroy(cudnnHandle_t h)
{
    delete h;
    return CUDNN_STATUS_SUCCESS;
}

cudnnStatus_t cudnnSetStream(cudnnHandle_t h, cudaStream_t s)
{
    if (emu::refuses()) return CUDNN_STATUS_INTERNAL_ERROR;
    h->stream = s;
    return CUDNN_STATUS_SUCCESS;
}

const char *cudnnGetErrorString(cudnnStatus_t st)
{
    return st == CUDNN_STATUS_EXECUTION_FAILED ? "CUDNN_STATUS_EXECUTION_FAILED" : "another status";
}

cudnnStatus_t cudnnBackendCreateDescriptor(cudnnBackendDescriptorType_t type, cudnnBackendDescriptor_t *d)
{
    *d = new emu_cudnn_descriptor{ link(new body{ type, false, {}, {}, 0 }) };
    return CUDNN_STATUS_SUCCESS;
}

cudnnStatus_t cudnnBackendDestroyDescriptor(cudnnBackendDescriptor_t d)
{
    delete d;
    return CUDNN_STATUS_SUCCESS;
}

cudnnStatus_t cudnnBackendSetAttribute(cudnnBackendDescriptor_t d, cudnnBackendAttributeName_t name, cudnnBackendAttributeType_t type,
                                       int64_t n, const void *p)
{
    body &b = *d->b;
    if (b.final || n < 1) return CUDNN_STATUS_BAD_PARAM;
    if (type == CUDNN_TYPE_BACKEND_DESCRIPTOR)
        for (int64_t i = 0; i < n; i++) b.links[name].push_back(((const cudnnBackendDescriptor_t *)p)[i]->b);
    else
        b.bytes[name].assign((const char *)p, (const char *)p + n * size_of(type));
    return CUDNN_STATUS_SUCCESS;
}

cudnnStatus_t cudnnBackendGetAttribute(const cudnnBackendDescriptor_t d, cudnnBackendAttributeName_t name, cudnnBackendAttributeType_t type,
                                       int64_t room, int64_t *n, void *p)
{
    const body &b = *d->b;
    if (!b.final) return CUDNN_STATUS_NOT_INITIALIZED;
    if (type == CUDNN_TYPE_BACKEND_DESCRIPTOR) {
        const std::vector<link> x = name == CUDNN_ATTR_ENGINEHEUR_RESULTS ? results(b) : b.links.at(name);
        *n = std::min(room, (int64_t)x.size());
        for (int64_t i = 0; i < *n; i++) ((const cudnnBackendDescriptor_t *)p)[i]->b = x[i];
    } else if (name == CUDNN_ATTR_ENGINE_NUMERICAL_NOTE || name == CUDNN_ATTR_ENGINE_BEHAVIOR_NOTE) {
        give_notes(b, name, room, n, p);
    } else if (name == CUDNN_ATTR_EXECUTION_PLAN_WORKSPACE_SIZE) {
        give(std::vector<int64_t>({ (int64_t)b.work }), room, n, p);
    } else {
        give(b.bytes.at(name), (int64_t)size_of(type) * room, n, p);
        *n /= (int64_t)size_of(type);
    }
    return CUDNN_STATUS_SUCCESS;
}

cudnnStatus_t cudnnBackendFinalize(cudnnBackendDescriptor_t d)
{
    if (emu::refuses()) return CUDNN_STATUS_INTERNAL_ERROR;
    d->b->final = fits(d->b.get());
    return d->b->final ? CUDNN_STATUS_SUCCESS : CUDNN_STATUS_BAD_PARAM;
}

cudnnStatus_t cudnnBackendExecute(cudnnHandle_t h, cudnnBackendDescriptor_t plan, cudnnBackendDescriptor_t pack)
{
    const numbers ids = all<int64_t>(*pack->b, CUDNN_ATTR_VARIANT_PACK_UNIQUE_IDS);
    const std::vector<void *> addresses = all<void *>(*pack->b, CUDNN_ATTR_VARIANT_PACK_DATA_POINTERS);
    void *work = one<void *>(*pack->b, CUDNN_ATTR_VARIANT_PACK_WORKSPACE);
    job j;
    engine e;
    std::map<int64_t, void *> at;
    if (!plan->b->final || !pack->b->final || ids.size() != addresses.size() || (uintptr_t)work % 16) return CUDNN_STATUS_BAD_PARAM;
    for (size_t i = 0; i < ids.size(); i++) at[ids[i]] = addresses[i];
    if (!read_plan(*plan->b, &j, &e)) return CUDNN_STATUS_BAD_PARAM;
    for (int64_t id : { j.x, j.w, j.y, j.bias ? j.bias : j.y })
        if (!at[id] || (uintptr_t)at[id] % 16) return CUDNN_STATUS_BAD_PARAM;
    if (mood("late")) return CUDNN_STATUS_NOT_SUPPORTED;
    if (emu::refuses()) return CUDNN_STATUS_EXECUTION_FAILED;
    void *const x = at[j.x], *const w = at[j.w], *const y = at[j.y], *const bias = j.bias ? at[j.bias] : nullptr;
    const size_t bytes = plan->b->work;
    emu::enqueue_task(h->stream, [=] {
        emu::check_device(work, bytes, true, "cuDNN's work space");
        memset(work, 0x5a, bytes);
        emu::convolve(j.c, x, w, y, bias);
    });
    return CUDNN_STATUS_SUCCESS;
}

#define ITSELF(name) name,
static const ts_cudnn CALLS = { TS_CUDNN_CALLS(ITSELF) };

const ts_cudnn *ts_cudnn_load(void)
{
    return &CALLS;
}
