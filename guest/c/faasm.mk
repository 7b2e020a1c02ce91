# Flags for building functions, to be included by the Makefile of a function's author:
#
#   include path/to/guest/c/faasm.mk
#   %.wasm: %.o
#   	$(FAASM_CC) $(FAASM_LDFLAGS) $< $(FAASM_LIBS) -o $@
#
# Compile and link in two steps, and without -O at the link: a link with -O makes clang run
# wasm-opt silently where it is installed, and the bytes then depend on the machine.

FAASM_DIR := $(patsubst %/,%,$(dir $(lastword $(MAKEFILE_LIST))))

# make has built-in values for CC, CXX and AR, so ?= alone would leave the host's compiler.
ifeq ($(origin CC),default)
CC := clang-19
endif
ifeq ($(origin CXX),default)
CXX := clang++-19
endif
ifeq ($(origin AR),default)
AR := llvm-ar-19
endif

FAASM_TARGET := --target=wasm32-wasi
FAASM_CC := $(CC) $(FAASM_TARGET)
FAASM_CXX := $(CXX) $(FAASM_TARGET)
FAASM_CFLAGS := -O2 -msimd128 -I$(FAASM_DIR)/include
FAASM_CXXFLAGS := $(FAASM_CFLAGS) -I$(FAASM_DIR)/../cpp/include -fno-exceptions

# The stack is first in memory, so that an overflow traps and does not overwrite data. It is
# also the greater part of a small function's memory: set FAASM_STACK (bytes, a multiple of
# 16) lower where calls are shallow.
FAASM_STACK ?= 1048576

# The table is exported because chained function pointers are indices into it. Of the custom
# sections only the names are kept: a trap's backtrace shows them.
FAASM_LDFLAGS_COMMAND = -Wl,-z,stack-size=$(FAASM_STACK),--stack-first,--export-table,-s,--keep-section=name,--compress-relocations
FAASM_LDFLAGS = -mexec-model=reactor $(FAASM_LDFLAGS_COMMAND)
FAASM_LIBS := -L$(FAASM_DIR) -lfaasm
