// What the Go side of this package sees of the C side: see engine.c.
#ifndef FAASM_ENGINE_H
#define FAASM_ENGINE_H

#include "wasmtime.h"

enum { FSL_ARGS_MAX = 16, FSL_NESTED_MAX = 4, FSL_ENTRY_MAX = 32 };

// An instance that has been reset so often is not reset again: whatever Wasmtime may keep
// of a call in its store is bounded.
enum { FSL_RESETS_MAX = 10000 };

// What fsl_start, fsl_answer and their kin report.
enum {
  FSL_FINISHED = 0,      // the entry point returned; result holds what
  FSL_TRAPPED = 1,       // see fsl_failure
  FSL_HOST_CALL = 2,     // host, nargs, args are set; answer and poll
  FSL_GUEST_DONE = 3,    // the guest function asked for by fsl_call_guest returned; see result
  FSL_NO_ENTRY = 4,      // no such export, or not a function of the right type
};

// Guest code that a host call runs.
typedef struct fsl_guest {
  wasmtime_func_t func;
  size_t nargs, nresults;
  wasmtime_val_t args[2], result;
  wasmtime_call_future_t *future;
} fsl_guest;

// One host call in flight. There is more than one only while a host call runs guest code
// that makes host calls itself.
typedef struct fsl_frame {
  struct fsl *f;
  int state;
  wasmtime_valkind_t kind; // of the host function's result
  wasmtime_val_t *results;
  size_t nresults;
  wasm_trap_t **trap;

  struct fsl_guest *guest; // the guest code that this host call runs, or NULL
} fsl_frame;

// One instance and what it runs. Go owns it from fsl_new to fsl_delete, and reads the
// fields between polls.
typedef struct fsl {
  // Set by Go before fsl_start, constant afterwards: the region.
  uint8_t *base;        // guest address 0
  uint64_t limit;       // bytes the memory may grow to
  uint64_t reservation; // addresses that belong to it
  uint8_t *gate;
  uint8_t *stack_top;
  uint64_t stack_len;

  uint64_t size;         // of the linear memory, bytes
  uint32_t grow_refused; // the guest asked for more than limit, or the kernel had none

  // The host call that waits for an answer, after FSL_HOST_CALL.
  uint32_t host;
  uint32_t nargs;
  uint64_t args[FSL_ARGS_MAX];
  uint64_t result; // of the entry point or of the guest function

  // The guest's monotonic clock, ns: what it read at the start of the call; or, while it
  // is logical, its last reading.
  int64_t clock;
  uint32_t clock_logical;
  int64_t clock_start; // CLOCK_MONOTONIC at the start of the call, ns
  int64_t start_ns;    // how long it took to instantiate and restore the module

  // The rest is engine.c's.
  bool reset;          // it is as it was when it was made, and has not been started since
  uint32_t resets;
  uint64_t first_size; // of the linear memory, when it was made
  struct fsl_first *first; // the globals then, as many as the module's nresets; or NULL
  char entry_name[FSL_ENTRY_MAX]; // of entry, an export
  size_t entry_n;
  wasmtime_func_t entry;
  int event, depth, stack_taken;
  int memories; // index of the next one that Wasmtime asks for; -1 is the heap
  bool counts;  // it only counts them
  bool host_grows; // a growth is the host's wish, not the guest's
  wasmtime_store_t *store;
  wasmtime_context_t *context;
  wasmtime_instance_t instance;
  wasmtime_call_future_t *future;
  wasmtime_func_t func;
  size_t nresults;
  wasmtime_val_t value;
  wasm_trap_t *trap;
  wasmtime_error_t *error;
  fsl_frame outer;
  fsl_frame *nested; // FSL_NESTED_MAX - 1 more, once a host call has run guest code that calls the host
} fsl;

typedef struct fsl_engine {
  wasm_engine_t *engine;
  wasmtime_linker_t *linker;
  bool epochs;
  struct fsl_host_info *hosts; // all that was defined, for fsl_engine_delete
} fsl_engine;

// What instances start from instead of the module's own values. Functions are named by
// 1 + an index of funcs, each of which is looked up once for an instance; 0 is null.
typedef struct fsl_name {
  char *at;
  size_t n;
} fsl_name;

typedef struct fsl_restore_global {
  fsl_name name;
  wasmtime_valkind_t kind;
  wasmtime_v128 bits; // of a number, little-endian
  uint32_t func;
} fsl_restore_global;

typedef struct fsl_restore_element {
  uint32_t index, func;
} fsl_restore_element;

typedef struct fsl_restore_table {
  fsl_name name;
  wasmtime_valkind_t kind;
  uint64_t size;
  fsl_restore_element *elements;
  size_t nelements;
} fsl_restore_table;

typedef struct fsl_restore {
  fsl_name *funcs;
  fsl_restore_global *globals;
  fsl_restore_table *tables;
  size_t nfuncs, nglobals, ntables;
  int64_t clock;
} fsl_restore;

typedef struct fsl_module {
  fsl_engine *engine;
  wasmtime_module_t *module;
  wasmtime_instance_pre_t *pre;
  int64_t table_elements_max; // in each table the guest can grow; 0 if it has none
  fsl_restore *restore;       // owned; NULL: instances start as the module says
  bool heap;                  // instances have a heap for external references
  fsl_name *resets;           // owned; the globals that fsl_reset sets
  size_t nresets;
  bool can_reset;             // besides memory they are all that a guest can change
} fsl_module;

// An export's type.
typedef struct fsl_export {
  const char *name; // the vector's
  size_t n;
  wasm_externkind_t kind;
  wasmtime_valkind_t type; // of a global, or of a table's elements
  bool mutable_;
  uint32_t min, max; // elements of a table; max is UINT32_MAX if there is none
} fsl_export;

typedef struct fsl_config {
  uint64_t reservation, guard, stack, wasm_stack;
  bool epochs;
} fsl_config;

// A function that the linker gets. kinds are the parameters' and then the results',
// WASM_I32 to WASM_F64. fast, if not 0, names one of engine.c's own functions, which is
// run on the guest's stack; every other one is a return to Go with its index.
typedef struct fsl_host {
  const char *module, *name;
  const uint8_t *kinds;
  uint32_t nparams, nresults, index, fast;
} fsl_host;

enum { FSL_FAST_NONE = 0, FSL_FAST_CLOCK_TIME_GET = 1, FSL_FAST_CLOCK_RES_GET = 2, FSL_FAST_SCHED_YIELD = 3 };

typedef struct fsl_stack_frame {
  uint32_t func_index;
  uint64_t offset;
  char name[120];
} fsl_stack_frame;

// The functions that return a char* return NULL for success, else a message to free().

char *fsl_engine_new(const fsl_config *, fsl_engine **);
void fsl_engine_delete(fsl_engine *);
char *fsl_engine_define(fsl_engine *, const fsl_host *);

char *fsl_module_compile(fsl_engine *, const uint8_t *wasm, size_t n, fsl_module **);
// Runs whatever machine code is in bytes: they must come from fsl_module_serialize.
char *fsl_module_load(fsl_engine *, const uint8_t *bytes, size_t n, fsl_module **out);
char *fsl_module_serialize(const fsl_module *, wasm_byte_vec_t *out);
size_t fsl_module_code_bytes(const fsl_module *);
char *fsl_module_validate(fsl_engine *, const uint8_t *wasm, size_t n);
void fsl_module_exports(const fsl_module *, wasm_exporttype_vec_t *out);
void fsl_export_at(const wasm_exporttype_vec_t *, size_t i, fsl_export *out);
// Lets instances that are made from now on be reset. resets is taken over.
void fsl_module_can_reset(fsl_module *, fsl_name *resets, size_t nresets);
void fsl_module_delete(fsl_module *);
char *fsl_wat(const char *text, size_t n, wasm_byte_vec_t *out);

// An instance's life: fsl_new, then any number of times fsl_start or fsl_start_table and
// an answer to each host call until FSL_FINISHED, then fsl_delete. After FSL_TRAPPED or
// FSL_NO_ENTRY of a start only fsl_failure and fsl_delete may follow. fsl_delete may come
// at any time while no thread is in one of the others: a suspended guest is dropped.
// fsl_start's caller knows the export's type: no parameters, nresults (0 or 1) numbers.
// fsl_instantiate does what the first start would do before it runs the guest, and returns
// FSL_FINISHED or FSL_TRAPPED.
// fsl_reset, after FSL_FINISHED, makes an instance whose guest came to its end what it was
// before its first start, but for the bytes of its memory: another start may follow. If it
// returns false only fsl_delete may.
fsl *fsl_new(void);
bool fsl_reset(fsl *, const fsl_module *);
int fsl_instantiate(fsl *, const fsl_module *);
int fsl_start(fsl *, const fsl_module *, const char *export, size_t n, size_t nresults);
int fsl_start_table(fsl *, const fsl_module *, const char *table, size_t n, uint32_t index);
void fsl_delete(fsl *);

// What to do with the host call that waits; each lets the guest go on.
int fsl_answer(fsl *, uint64_t result);
int fsl_answer_trap(fsl *, const char *message, size_t n);
// Runs a guest function of i32 parameters. FSL_NO_ENTRY leaves the host call
// waiting, as before.
int fsl_call_guest(fsl *, const char *export, size_t n, uint32_t nargs, uint32_t a0, uint32_t a1);

// Grows the memory by pages of Wasm, also while a host call waits.
char *fsl_grow(fsl *, const char *export, size_t n, uint64_t pages);

// Whether the table has a function of type () -> i32 at index.
bool fsl_table_has_entry(fsl *, const char *table, size_t n, uint32_t index);

// Reading an instance that does not run, by the names of exports. A function's identity
// is the address of its record in this instance, NULL for a null reference. What is not
// there or of another kind gives FSL_NOT_THERE.
enum { FSL_READ = 0, FSL_NOT_THERE = 1, FSL_NOT_NULL = 2 /* an externref, which has no identity */ };
int fsl_func_id(fsl *, const char *export, size_t n, uintptr_t *id);
int fsl_global(fsl *, const char *export, size_t n, wasmtime_valkind_t *kind, uint8_t *bits, uintptr_t *id);
int fsl_table_size(fsl *, const char *export, size_t n, uint64_t *size);
// Fills ids with the identities of nids elements. After FSL_NOT_NULL *from is the index.
int fsl_table_ids(fsl *, const char *export, size_t n, uint64_t *from, uintptr_t *ids, size_t nids);

// The guest's monotonic clock, ns. It does not count as a reading.
int64_t fsl_elapsed(const fsl *);

// The logical clock's realtime at its reading 0: 2020-01-01T00:00:00Z, ns since 1970. No
// reading passes FSL_CLOCK_MAX, so that no sum of the two overflows.
#define FSL_CLOCK_EPOCH (INT64_C(1577836800) * 1000000000)
#define FSL_CLOCK_MAX (INT64_MAX - FSL_CLOCK_EPOCH)
#define FSL_CLOCK_STEP INT64_C(1000) // what a reading adds to a logical clock

// Whether this thread has taken a page fault since it last asked; true the first time.
bool fsl_thread_faulted(void);
// Whether the kernel's count of them can be relied on.
bool fsl_counts_faults(void);

// Why the guest died, after FSL_TRAPPED: a message to free(), Wasmtime's trap code or -1,
// and up to *nframes frames, innermost first.
char *fsl_failure(fsl *, int *code, fsl_stack_frame *frames, size_t *nframes);

#endif
