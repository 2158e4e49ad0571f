# tessera: `make help` lists the targets.
#
#   ARCH=native    instruction set of this machine; ARCH=x86-64-v3 for a portable build
#   ASAN=1         AddressSanitizer and UndefinedBehaviorSanitizer, in a build folder of its own
#   CC=clang       gcc and clang both build without a warning
#   V=1            show the commands

CC      := $(if $(filter default,$(origin CC)),gcc,$(CC))
ARCH    ?= native
PREFIX  ?= /usr/local
B       := build$(if $(ASAN),/asan)
VERSION := 0.1.0
Q       := $(if $(V),,@)

WARN    := -Wall -Wextra -Wpedantic -Wshadow -Wconversion -Wno-sign-conversion -Wstrict-prototypes \
           -Wmissing-prototypes -Wold-style-definition -Wundef -Wformat=2
# No fast-math: quantizers round, and NaN must be seen. errno and FP traps are not used, products are not contracted.
OPT     := -O3 -march=$(ARCH) -fno-math-errno -fno-trapping-math -ffp-contract=off
comma   := ,
SAN     := $(if $(ASAN),-fsanitize=address$(comma)undefined -fno-sanitize-recover=undefined -fno-omit-frame-pointer)
CFLAGS   = -std=c11 -g $(OPT) $(SAN) -fopenmp -fPIC -fvisibility=hidden $(WARN) -D_GNU_SOURCE -DTS_VERSION='"$(VERSION)"' -Iinclude -I. -MMD -MP
LDLIBS  := -ldnnl -lpng -ljpeg -larchive -ljansson -lxxhash -lpthread -lm
CHECK_LIBS = $(shell pkg-config --libs check)

LIB_SRC  := $(wildcard kernels/cpu/*.c host/*.c models/*.c)
LIB_OBJ  := $(LIB_SRC:%.c=$(B)/obj/%.o)
TOOL_OBJ := $(patsubst %.c,$(B)/obj/%.o,$(wildcard tools/*.c))
# What the commands share and tests may call.
OPT_OBJ  := $(B)/obj/tools/options.o $(B)/obj/tools/options_help.o $(B)/obj/tools/common.o
TEST_SRC := $(wildcard tests/op/test_*.c tests/host/test_*.c tests/model/test_*.c)
TESTS    := $(TEST_SRC:%.c=$(B)/%)

all: $(B)/tessera $(B)/libtessera.a ## build the program and the library (default)

$(B)/tessera: $(TOOL_OBJ) $(LIB_OBJ)
	$(Q)$(CC) $(CFLAGS) $^ -o $@ $(LDLIBS)
$(B)/libtessera.a: $(LIB_OBJ)
	$(Q)rm -f $@ && ar rcs $@ $^
$(B)/obj/%.o: %.c | bootstrap
	@mkdir -p $(@D)
	@echo "  CC  $<"
	$(Q)$(CC) $(CFLAGS) -c $< -o $@
$(B)/tests/%: $(B)/obj/tests/%.o $(B)/obj/tests/t.o $(LIB_OBJ) $(OPT_OBJ)
	@mkdir -p $(@D)
	$(Q)$(CC) $(CFLAGS) $^ -o $@ $(LDLIBS) $(CHECK_LIBS)

bootstrap: ## install what is missing (as root), or print the one command that does
	@tools/bootstrap.sh

check: $(TESTS) $(B)/tessera ## build and run every test
	@tests/run.sh $(B)

clean: ## remove everything that was built
	rm -rf build

help: ## list the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /  \1\t/' | expand -t 16

.PHONY: all bootstrap check clean help
.SECONDARY:
-include $(shell find $(B)/obj -name '*.d' 2>/dev/null)
