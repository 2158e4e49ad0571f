/* test_plans.cpp - does cuDNN itself, the library and not the stand-in of tests/emu, take the convolutions of the models as
 * kernels/cuda/conv_plan.h asks for them? From version 9.8 on it answers for a device that is not there, given its properties: it
 * names engines and plans with them. Compiled kernels are compiled, and end where a driver would load them.
 *
 * Nothing is computed. Skipped where there is no cuDNN, or an older one.
 */
#include <check.h>
#include <dlfcn.h>

#include <cstdio>
#include <cstring>
#include <string>
#include <vector>

#include "kernels/cuda/conv_plan.h"

namespace
{

struct device {
    const char *name;
    int version, processors, shared, l2, threads, blocks; /* version: 900 is sm_90; of a multiprocessor */
    long long memory;
    int clock, memory_clock; /* kHz */
};

/* As the devices themselves report it, or as published. */
const device DEVICES[] = {
    { "NVIDIA A100-SXM4-80GB", 800, 108, 166912, 41943040, 2048, 32, 85095874560, 1410000, 1593000 },
    { "NVIDIA GeForce RTX 3090", 860, 82, 101376, 6291456, 1536, 16, 25438126080, 1695000, 9751000 },
    { "NVIDIA GeForce RTX 4090", 890, 128, 101376, 75497472, 1536, 24, 25386352640, 2520000, 10501000 },
    { "NVIDIA H100 80GB HBM3", 900, 132, 232448, 52428800, 2048, 32, 85014740992, 1980000, 2619000 },
    { "NVIDIA B200", 1000, 148, 232448, 132644864, 2048, 32, 191510806528, 1965000, 3996000 },
    { "NVIDIA GeForce RTX 5090", 1200, 170, 101376, 100663296, 1536, 24, 33661648896, 2407000, 14001000 },
};

std::string properties_of(const device &d)
{
    char text[2048];
    snprintf(text, sizeof text,
             "{\"maxGridSize\":[2147483647,65535,65535],\"maxBlockSize\":[1024,1024,64],\"regsPerBlock\":65536,"
             "\"multiProcessorCount\":%d,\"warpSize\":32,\"maxSharedMemoryPerBlock\":49152,"
             "\"maxSharedMemoryPerBlockOptin\":%d,\"reservedSharedMemoryPerBlock\":1024,\"maxRegistersPerSM\":65536,"
             "\"maxCtasPerSM\":%d,\"maxThreadsPerBlock\":1024,\"maxThreadsPerSM\":%d,\"pciDeviceId\":0,\"isTccDriver\":0,"
             "\"supportCoopLaunch\":1,\"totalGlobalMem\":%lld,\"smClockRateKHz\":%d,\"memClockRateKHz\":%d,"
             "\"l2CacheSize\":%d,\"cudaDeviceId\":0,\"deviceVer\":%d,\"driverVer\":13000,\"deviceName\":\"%s\"}",
             d.processors, d.shared, d.blocks, d.threads, d.memory, d.clock, d.memory_clock, d.l2, d.version, d.name);
    return text;
}

/* Kinds of layers of the published tokenizer at 256x256, and of a small one. Sides padded differently are padded before. */
const ts_conv2d LAYERS[] = {
    /* B  Y    X    C    O    k stride lo hi */
    { 1, 256, 256, 3, 160, 3, 1, 1, 1, TS_MATH_F32, TS_F32, 0 },   { 1, 256, 256, 160, 160, 3, 1, 1, 1, TS_MATH_F32, TS_F32, 0 },
    { 1, 257, 257, 160, 160, 3, 2, 0, 0, TS_MATH_F32, TS_F32, 0 }, { 1, 64, 64, 160, 320, 3, 1, 1, 1, TS_MATH_F32, TS_F32, 0 },
    { 1, 16, 16, 640, 640, 3, 1, 1, 1, TS_MATH_F32, TS_F32, 0 },   { 1, 16, 16, 640, 32, 3, 1, 1, 1, TS_MATH_F32, TS_F32, 0 },
    { 1, 16, 16, 32, 32, 3, 1, 1, 1, TS_MATH_F32, TS_F32, 0 },     { 1, 256, 256, 160, 3, 3, 1, 1, 1, TS_MATH_F32, TS_F32, 0 },
    { 1, 33, 33, 32, 32, 3, 2, 0, 0, TS_MATH_F32, TS_F32, 0 },     { 1, 4, 4, 128, 128, 3, 1, 1, 1, TS_MATH_F32, TS_F32, 0 },
};

struct kind {
    const char *name;
    ts_math math;
    ts_dtype operands;
};

const kind KINDS[] = { { "float32", TS_MATH_F32, TS_F32 }, { "TF32", TS_MATH_BF16, TS_F32 }, { "bfloat16", TS_MATH_BF16, TS_BF16 } };

const char *const PASSES[] = { "forward", "dx", "dw" };

const ts_cudnn *calls;

/* NULL where cuDNN does not know such descriptions. */
cudnnBackendDescriptor_t describe(const device &d)
{
#if CUDNN_VERSION >= 90800
    cudnnBackendDescriptor_t p = nullptr;
    const std::string text = properties_of(d);
    if (calls->cudnnBackendCreateDescriptor(CUDNN_BACKEND_DEVICEPROP_DESCRIPTOR, &p) != CUDNN_STATUS_SUCCESS) return nullptr;
    calls->cudnnBackendSetAttribute(p, CUDNN_ATTR_DEVICEPROP_JSON_REPRESENTATION, CUDNN_TYPE_CHAR, (int64_t)text.size() + 1, text.c_str());
    if (calls->cudnnBackendFinalize(p) == CUDNN_STATUS_SUCCESS) return p;
    calls->cudnnBackendDestroyDescriptor(p);
#else
    (void)d;
#endif
    return nullptr;
}

std::vector<cudnnBackendDescriptor_t> devices; /* as DEVICES */

/* The driver, or what the toolkit has in its place: compiling asks for it. */
bool load()
{
    if (!dlopen("libcuda.so.1", RTLD_NOW) && !dlopen(TS_CUDA_STUB, RTLD_NOW)) return false;
    calls = ts_cudnn_load();
    for (const device &d : DEVICES)
        if (calls) devices.push_back(describe(d));
    return calls && devices[0];
}

/* Forward of 3 channels, to 3 channels: gradients of these are products of unrolled pictures instead. */
bool may_be_refused(const ts_conv_graph &g)
{
    return g.operands == TS_BF16 && g.pass != TS_CONV_FWD && (g.shape.C % 4 || g.shape.O % 4);
}

/* A compiled kernel is made, and then there is no driver that loads it. */
bool planned(const ts_conv_place *at, const ts_conv_graph &g, const ts_conv_engine *e)
{
    enum { NO_DRIVER = 5001 }; /* CUDNN_STATUS_EXECUTION_FAILED_CUDA_DRIVER */
    ts_conv_plan *p;
    const int status = ts_conv_plan_new(&p, at, &g, e);
    ts_conv_plan_free(p);
    return status == CUDNN_STATUS_SUCCESS || (g.operands == TS_BF16 && status == NO_DRIVER);
}

/* Does the engine take B pictures, in pieces where it must be? */
bool takes(const ts_conv_place *at, ts_conv_graph g, const ts_conv_engine *e, int64_t B)
{
    for (g.shape.B = B; !planned(at, g, e); g.shape.B = (g.shape.B + 1) / 2)
        if (g.shape.B == 1) return false;
    return true;
}

void check_layer(const device &d, const ts_conv_place *at, const ts_conv_graph &g, const kind &k, bool compile)
{
    ts_conv_engine e[TS_CONV_ENGINES];
    const ts_conv2d &c = g.shape;
    const int n = ts_conv_engines(at, &g, e);
    ck_assert_msg(n > 0 || may_be_refused(g), "%s: no engine for %s in %s of Y=%d C=%d O=%d stride=%d", d.name, PASSES[g.pass], k.name,
                  (int)c.Y, (int)c.C, (int)c.O, c.stride);
    if (n == 0 || (g.operands == TS_BF16 && !compile)) return;
    bool done = false;
    for (int i = 0; i < n && !done; i++)
        done = takes(at, g, &e[i], 3) && (g.operands == TS_BF16 || (takes(at, g, &e[i], 1) && takes(at, g, &e[i], 16)));
    ck_assert_msg(done, "%s: no plan for %s in %s of Y=%d C=%d O=%d stride=%d", d.name, PASSES[g.pass], k.name, (int)c.Y, (int)c.C,
                  (int)c.O, c.stride);
}

/* One loop iteration is one device. Compiling takes seconds: for one layer, on one device. */
START_TEST(convolutions_of_the_models)
{
    const device &d = DEVICES[_i];
    if (!load()) {
        puts("SKIP no cuDNN 9.8 or later");
        fflush(stdout);
        return;
    }
    ck_assert(devices[(size_t)_i] != nullptr);
    const ts_conv_place at = { calls, nullptr, devices[(size_t)_i] };
    for (const ts_conv2d &layer : LAYERS)
        for (const kind &k : KINDS)
            for (int pass = TS_CONV_FWD; pass <= TS_CONV_DW; pass++) {
                ts_conv_graph g = { layer, (ts_conv_pass)pass, k.operands };
                g.shape.math = k.math;
                check_layer(d, &at, g, k, &layer == &LAYERS[4] && d.version == 900);
            }
}
END_TEST

} // namespace

int main()
{
    Suite *u = suite_create("plans");
    TCase *c = tcase_create("plans");
    tcase_set_timeout(c, 240);
    tcase_add_loop_test(c, convolutions_of_the_models, 0, sizeof DEVICES / sizeof *DEVICES);
    suite_add_tcase(u, c);
    SRunner *r = srunner_create(u);
    srunner_run_all(r, CK_NORMAL);
    const int failed = srunner_ntests_failed(r);
    srunner_free(r);
    return failed != 0;
}
