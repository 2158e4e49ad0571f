# tessera: `make help` lists the targets.
#
#   ARCH=native    instruction set of this machine; ARCH=x86-64-v3 for a portable build
#   ASAN=1         AddressSanitizer and UndefinedBehaviorSanitizer, in a build folder of its own
#   CC=clang       gcc and clang both build without a warning
#   CUDA=1         with the CUDA backend, the default where nvcc is found; the program runs without a driver, too
#   CUDNN=1        convolutions by cuDNN, the default where its header is found; the program runs without the library, too
#   CUDA_ARCHS="80 90"   the architectures it is built for; on those newer than the last the driver compiles it again
#   DEVICE=cuda    make check: op tests on that backend alone, and no such device is a failure; without it, on all there are
#   V=1            show the commands
#   PREFIX=/usr/local DESTDIR=   where `make install` puts things

MAKEFLAGS += -j$(shell nproc)

CC      := $(if $(filter default,$(origin CC)),gcc,$(CC))
ARCH    ?= native
PREFIX  ?= /usr/local
DESTDIR ?=
B       := build$(if $(ASAN),/asan)
VERSION := 0.1.0
SONAME  := libtessera.so.$(firstword $(subst ., ,$(VERSION)))
Q       := $(if $(V),,@)

WARN    := -Wall -Wextra -Wpedantic -Wshadow -Wconversion -Wno-sign-conversion -Wstrict-prototypes \
           -Wmissing-prototypes -Wold-style-definition -Wundef -Wformat=2
# No fast-math: quantizers round, and NaN must be seen. errno and FP traps are not used, products are not contracted.
OPT     := -O3 -march=$(ARCH) -fno-math-errno -fno-trapping-math -ffp-contract=off
comma   := ,
SAN     := $(if $(ASAN),-fsanitize=address$(comma)undefined -fno-sanitize-recover=undefined -fno-omit-frame-pointer)
CFLAGS   = -std=c11 -g $(OPT) $(SAN) -fopenmp -fPIC -fvisibility=hidden $(WARN) -D_GNU_SOURCE -DTS_VERSION='"$(VERSION)"' -Iinclude -I. -MMD -MP

# The CUDA runtime is linked statically, cuBLAS is loaded when a device is opened, and cuDNN by the first convolution.
NVCC    ?= nvcc
CUDA    ?= $(if $(ASAN),0,$(if $(shell command -v $(NVCC)),1,0))
CUDA_ARCHS ?= 80 90
CUDA_HOME = $(patsubst %/bin/nvcc,%,$(shell command -v $(NVCC)))
NVBASE   = -std=c++17 -O3 -lineinfo -fmad=false -Werror all-warnings -Iinclude -I. -MMD -MP \
           -Xcompiler -Wall,-Wextra,-fPIC,-fvisibility=hidden
NVFLAGS  = $(NVBASE) $(foreach a,$(CUDA_ARCHS),-gencode arch=compute_$a,code=sm_$a) \
           $(foreach a,$(lastword $(CUDA_ARCHS)),-gencode arch=compute_$a,code=compute_$a)
CFLAGS  += -DTS_CUDA=$(CUDA) -DTS_EMU=0
CUDNN   ?= $(if $(wildcard $(addsuffix /cudnn.h,$(CUDA_HOME)/include /usr/include /usr/include/x86_64-linux-gnu)),1,0)
CU_SRC   := $(wildcard kernels/cuda/*.cu)
CUDA_SRC := $(filter-out $(if $(filter 1,$(CUDNN)),%/convolve_none.cu,%/convolve.cu %/conv_plan.cu %/cudnn.cu),$(CU_SRC))
CUDA_OBJ := $(if $(filter 1,$(CUDA)),$(CUDA_SRC:%.cu=$(B)/obj/%.o))
CUDA_LIBS = $(if $(filter 1,$(CUDA)),-L$(CUDA_HOME)/lib64 -lcudart_static -lstdc++ -ldl -lrt)

# The emulated device of tests/emu runs the same sources, compiled by the host compiler, in a second set of test programs.
# -fsanitize=thread stands for the callbacks of every memory access; its library is not linked. `make coverage-cuda` builds it with
# gcc's counters instead, in a folder of its own.
COVERAGE := $(filter coverage-cuda,$(MAKECMDGOALS))
EMU      := $(B)/$(if $(COVERAGE),coverage,emu)
EMU_FLAGS = -std=c++17 -g -O2 -march=$(ARCH) -fno-math-errno -fno-trapping-math -ffp-contract=off -Wall -Wextra -Wno-unknown-pragmas \
            -DTS_EMU_CALLBACKS=$(if $(ASAN)$(COVERAGE),0,1) -Itests/emu/include -Iinclude -I. -MMD -MP
EMU_HOOKS = $(if $(COVERAGE),-O0 --coverage,$(if $(ASAN),$(SAN),-fsanitize=thread))
EMU_OBJ  := $(patsubst %.cu,$(EMU)/obj/%.o,$(filter-out %/cublas.cu %/cudnn.cu %/convolve_none.cu,$(CU_SRC))) \
            $(patsubst %.cpp,$(EMU)/obj/%.o,$(filter-out tests/emu/test_%,$(wildcard tests/emu/*.cpp))) $(EMU)/obj/host/backend.o
EMU_LIBS  = $(LDLIBS) $(CHECK_LIBS) -lboost_context $(if $(COVERAGE),--coverage)
EMU_TESTS := $(patsubst %.c,$(EMU)/%,$(wildcard tests/op/test_*.c) tests/model/test_twins.c tests/model/test_sampler.c tests/host/test_device.c) \
             $(patsubst %.cpp,$(EMU)/%,$(wildcard tests/emu/test_*.cpp))

LDLIBS  := -ldnnl -lpng -ljpeg -larchive -ljansson -lxxhash -lpthread -lm $(CUDA_LIBS)
CHECK_LIBS = $(shell pkg-config --libs check)

LIB_SRC  := $(wildcard kernels/cpu/*.c host/*.c models/*.c)
LIB_OBJ  := $(LIB_SRC:%.c=$(B)/obj/%.o) $(CUDA_OBJ)
TOOL_OBJ := $(patsubst %.c,$(B)/obj/%.o,$(wildcard tools/*.c))
# What the commands share and tests may call.
OPT_OBJ  := $(B)/obj/tools/options.o $(B)/obj/tools/options_help.o $(B)/obj/tools/common.o $(B)/obj/tools/augment.o $(B)/obj/tools/balance.o
EMU_LIB  := $(filter-out %/host/backend.o $(CUDA_OBJ),$(LIB_OBJ)) $(EMU_OBJ)
TEST_SRC := $(wildcard tests/op/test_*.c tests/host/test_*.c tests/model/test_*.c)
TESTS    := $(TEST_SRC:%.c=$(B)/%) $(if $(filter 11,$(CUDA)$(CUDNN)),$(B)/tests/cudnn/test_plans)
FUZZ     := $(patsubst %.c,$(B)/%,$(wildcard tests/fuzz/fuzz_*.c))
FUZZ_SECONDS ?= 60

all: $(B)/tessera $(B)/libtessera.a $(B)/$(SONAME) ## build the program and the library (default)

$(B)/tessera: $(TOOL_OBJ) $(LIB_OBJ)
	$(Q)$(CC) $(CFLAGS) $^ -o $@ $(LDLIBS)
$(EMU)/tessera: $(TOOL_OBJ) $(EMU_LIB) # the program with the emulated device, for its tests: --device emu
	$(Q)$(CXX) $(SAN) -fopenmp $^ -o $@ $(EMU_LIBS)
$(B)/libtessera.a: $(LIB_OBJ)
	$(Q)rm -f $@ && ar rcs $@ $^
$(B)/$(SONAME): $(LIB_OBJ)
	$(Q)$(CC) $(CFLAGS) -shared -Wl,-soname,$(SONAME) $(if $(ASAN),,-Wl,--no-undefined) $^ -o $@ $(LDLIBS)
$(B)/obj/%.o: %.c | bootstrap
	@mkdir -p $(@D)
	@echo "  CC  $<"
	$(Q)$(CC) $(CFLAGS) -c $< -o $@
$(B)/tests/%: $(B)/obj/tests/%.o $(B)/obj/tests/t.o $(LIB_OBJ) $(OPT_OBJ)
	@mkdir -p $(@D)
	$(Q)$(CC) $(CFLAGS) $^ -o $@ $(LDLIBS) $(CHECK_LIBS)

# What cuDNN itself says to kernels/cuda/conv_plan.h, without a device: host code alone, so the host compiler will do.
PLANS := tests/cudnn/test_plans.cpp kernels/cuda/conv_plan.cu kernels/cuda/cudnn.cu
$(B)/tests/cudnn/test_plans: $(PLANS) kernels/cuda/conv_plan.h kernels/cuda/cudnn.h include/tessera/op_conv2d.h | bootstrap
	@mkdir -p $(@D)
	@echo "  CXX $<"
	$(Q)$(CXX) -std=c++17 -g -O1 -Wall -Wextra -I$(CUDA_HOME)/include -Iinclude -I. -DTS_CUDA_STUB='"$(CUDA_HOME)/lib64/stubs/libcuda.so"' \
	    -x c++ $(PLANS) -o $@ -L$(CUDA_HOME)/lib64 $(CHECK_LIBS) -ldl

# The table of backends is compiled again when CUDA=0 becomes CUDA=1 or the other way round, and so with CUDNN.
BUILD_OF := cuda-$(CUDA)$(if $(filter 1,$(CUDA)),-$(CUDNN))
$(shell mkdir -p $(B)/obj && cd $(B)/obj && [ ! -e $(BUILD_OF) ] && rm -f cuda-* && touch $(BUILD_OF))
$(B)/obj/host/backend.o: $(wildcard $(B)/obj/cuda-*)
$(B)/obj/kernels/cuda/%.o: kernels/cuda/%.cu | bootstrap
	@mkdir -p $(@D)
	@echo "  NVCC $<"
	$(Q)$(NVCC) $(NVFLAGS) -Xptxas -v -c $< -o $@ 2>$(@:.o=.ptxas) || { cat $(@:.o=.ptxas) >&2; exit 1; }
$(EMU)/obj/kernels/cuda/%.o: kernels/cuda/%.cu | bootstrap
	@mkdir -p $(@D)
	@echo "  EMU $<"
	$(Q)$(CXX) $(EMU_FLAGS) $(EMU_HOOKS) -x c++ -c $< -o $@
$(EMU)/obj/tests/emu/test_%.o: tests/emu/test_%.cpp | emu-bootstrap
	@mkdir -p $(@D)
	@echo "  EMU $<"
	$(Q)$(CXX) $(EMU_FLAGS) $(EMU_HOOKS) -c $< -o $@
$(EMU)/obj/tests/emu/%.o: tests/emu/%.cpp | emu-bootstrap
	@mkdir -p $(@D)
	@echo "  CXX $<"
	$(Q)$(CXX) $(EMU_FLAGS) -O3 $(SAN) -c $< -o $@
$(EMU)/obj/host/backend.o: host/backend.c | bootstrap
	@mkdir -p $(@D)
	@echo "  CC  $< (emulated device)"
	$(Q)$(CC) $(CFLAGS) -UTS_EMU -DTS_EMU=1 -c $< -o $@
$(filter-out $(EMU)/tests/emu/%,$(EMU_TESTS)): $(EMU)/tests/%: $(B)/obj/tests/%.o $(B)/obj/tests/t.o $(EMU_LIB) $(OPT_OBJ)
	@mkdir -p $(@D)
	$(Q)$(CXX) $(SAN) -fopenmp $^ -o $@ $(EMU_LIBS)
$(EMU)/tests/emu/test_%: $(EMU)/obj/tests/emu/test_%.o $(EMU_LIB)
	@mkdir -p $(@D)
	$(Q)$(CXX) $(SAN) -fopenmp $^ -o $@ $(EMU_LIBS)

$(B)/tests/fuzz/%: $(B)/obj/tests/fuzz/%.o $(B)/obj/tests/fuzz/main.o $(LIB_OBJ)
	@mkdir -p $(@D)
	$(Q)$(CC) $(CFLAGS) $^ -o $@ $(LDLIBS)

$(B)/demo-page: $(B)/obj/tools/demo/page.o $(LIB_OBJ)
	$(Q)$(CC) $(CFLAGS) $^ -o $@ $(LDLIBS)

demo: $(B)/tessera $(B)/demo-page ## generate and reconstruct pictures with the models in the tree; see demo/index.html
	@tools/demo/run.sh $(B)

bench: $(B)/tessera ## measure every kernel (bench/README.md)
	@$(B)/tessera bench kernels --seconds 0.2

bootstrap: ## install what is missing (as root), or print the one command that does
	@tools/bootstrap.sh

emu-bootstrap: # fibers, for the emulated device alone
	@tools/bootstrap.sh libboost-context-dev

check: $(TESTS) $(EMU_TESTS) $(FUZZ) $(B)/tests/cli/make_pictures $(B)/tessera $(EMU)/tessera ## build and run every test
	@$(if $(DEVICE),TS_TEST_BACKEND=$(DEVICE)) tests/run.sh $(B)

fuzz: $(FUZZ) ## run every fuzz program for FUZZ_SECONDS (60); best with ASAN=1
	$(Q)set -e; for p in $(FUZZ); do echo "  FUZZ $$p"; \
	    $$p --seconds $(FUZZ_SECONDS) --seed $$(date +%s) tests/fuzz/corpus/$${p##*/fuzz_}; done

# PYTHON=/path/to/python3: one with torch, numpy, safetensors and Pillow. The weights stay in $(B)/full.
PYTHON  ?= python3
check-full: $(B)/tessera ## every stage at the size of the published depth 16 against PyTorch; takes minutes and 2 GB of disk
	@$(PYTHON) -c 'import torch, numpy, safetensors, PIL' 2>/dev/null || \
	    { echo "make check-full needs a Python with torch, numpy, safetensors and Pillow: PYTHON=/path/to/python3" >&2; exit 1; }
	$(Q)[ -e $(B)/full ] || { rm -rf $(B)/full.new && $(PYTHON) tools/compare/weights.py --depth 16 --out $(B)/full.new && \
	    mv $(B)/full.new $(B)/full; }
	$(Q)$(PYTHON) tools/compare/compare.py --tessera $(B)/tessera --tokenizer $(B)/full/tokenizer.safetensors \
	    --generator $(B)/full/generator.safetensors --stages --rounds 0

# LEAST=95: percent of all lines, less is a failure.
coverage-cuda: $(EMU_TESTS) ## the lines of kernels/cuda that the tests on the emulated device run; lists the others
	@LEAST=$(LEAST) tests/coverage.sh $(EMU)

# ONLY=EXPRESSION: only bugs whose file, test or description matches. TABLE=FILE: also write the table there.
mutate: $(filter $(EMU)/tests/op/%,$(EMU_TESTS)) ## plant bugs in the CUDA kernels and see that the op tests notice (tools/mutate)
	@tools/mutate/mutate.py --build $(B) --compile '$(CXX) $(EMU_FLAGS) $(EMU_HOOKS) -x c++ -c' --link '$(CXX) $(SAN) -fopenmp' \
	    --objects '$(B)/obj/tests/t.o $(EMU_LIB) $(OPT_OBJ)' --libs '$(EMU_LIBS)' --only '$(ONLY)' --table '$(TABLE)'

cuda-report: $(filter $(EMU)/tests/op/% %/test_twins,$(EMU_TESTS)) ## write kernels/cuda/REPORT.md: registers, occupancy and traffic of every kernel
	@tools/cuda_report.py --build $(B) --nvcc '$(NVCC)' --flags '$(NVBASE)' --cxx '$(CXX)'

INSTALLED = bin/tessera lib/libtessera.a lib/libtessera.so.$(VERSION) lib/$(SONAME) lib/libtessera.so \
            lib/pkgconfig/tessera.pc share/bash-completion/completions/tessera
install: all ## install program, libraries, headers and tessera.pc below PREFIX
	$(Q)mkdir -p $(addprefix $(DESTDIR)$(PREFIX)/,bin lib/pkgconfig include/tessera share/bash-completion/completions)
	$(Q)install -m 755 $(B)/tessera $(DESTDIR)$(PREFIX)/bin/
	$(Q)install -m 644 $(B)/libtessera.a $(DESTDIR)$(PREFIX)/lib/
	$(Q)install -m 755 $(B)/$(SONAME) $(DESTDIR)$(PREFIX)/lib/libtessera.so.$(VERSION)
	$(Q)ln -sf libtessera.so.$(VERSION) $(DESTDIR)$(PREFIX)/lib/$(SONAME)
	$(Q)ln -sf $(SONAME) $(DESTDIR)$(PREFIX)/lib/libtessera.so
	$(Q)install -m 644 include/tessera/*.h $(DESTDIR)$(PREFIX)/include/tessera/
	$(Q)sed -e 's|@PREFIX@|$(PREFIX)|' -e 's|@VERSION@|$(VERSION)|' -e 's|@LIBS@|$(LDLIBS)|' tools/tessera.pc.in \
	    >$(DESTDIR)$(PREFIX)/lib/pkgconfig/tessera.pc
	$(Q)$(B)/tessera --completion-bash >$(DESTDIR)$(PREFIX)/share/bash-completion/completions/tessera

uninstall: ## remove what install put there
	$(Q)rm -f $(addprefix $(DESTDIR)$(PREFIX)/,$(INSTALLED))
	$(Q)rm -rf $(DESTDIR)$(PREFIX)/include/tessera

clean: ## remove everything that was built
	rm -rf build

help: ## list the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /  \1\t/' | expand -t 16

.PHONY: all demo bench bootstrap emu-bootstrap check check-full coverage-cuda fuzz mutate cuda-report install uninstall clean help
.SECONDARY:
-include $(shell find $(B)/obj $(EMU)/obj -name '*.d' 2>/dev/null)
