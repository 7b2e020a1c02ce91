// Wasmtime with the shape that Faaslets need: instances in memory that we map, on stacks
// that we own, whose host calls are returns.
//
// A guest runs on a fiber (Wasmtime's asynchronous calls). When it calls the host, the
// callback below notes the call, and the fiber is suspended: fsl_start or fsl_answer return
// to Go, which does the work and answers. No Go code ever runs on a guest's stack, and no
// pointer to Go memory is kept here.
#define _GNU_SOURCE
#include "engine.h"

#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <time.h>

enum { WASM_PAGE = 65536, PAGE = 4096 };

// The instance that this thread runs. Wasmtime's callbacks for memories and stacks don't
// say for which instance they are called; they are called from instantiate and poll.
static _Thread_local fsl *current;

// States of a frame.
enum { WAITING, ANSWERED, GUEST_WANTED, GUEST_RUNNING };

static char *take_message(wasmtime_error_t *e) {
  wasm_byte_vec_t m;
  wasmtime_error_message(e, &m);
  char *s = malloc(m.size + 1);
  memcpy(s, m.data, m.size);
  s[m.size] = 0;
  wasm_byte_vec_delete(&m);
  wasmtime_error_delete(e);
  return s;
}

// ---- memory ----

static uint8_t *memory_get(void *env, size_t *size, size_t *capacity) {
  fsl *f = env;
  *size = f->size;
  *capacity = f->reservation;
  return f->base;
}

static wasmtime_error_t *memory_grow(void *env, size_t size) {
  fsl *f = env;
  if (size > f->limit || size > f->reservation) {
    f->grow_refused |= !f->host_grows;
    return wasmtime_error_new("memory limit reached");
  }
  if (size > f->size) {
    if (mprotect(f->base + f->size, size - f->size, PROT_READ | PROT_WRITE)) {
      f->grow_refused |= !f->host_grows;
      return wasmtime_error_new("no memory left on this host");
    }
    f->size = size;
  }
  return NULL;
}

static uint8_t *gate_get(void *env, size_t *size, size_t *capacity) {
  // Only the first page is ever read, and only by the gates themselves.
  *size = *capacity = WASM_PAGE;
  return ((fsl *)env)->gate;
}

static wasmtime_error_t *gate_grow(void *env, size_t size) {
  return wasmtime_error_new("a gate does not grow");
}

// The heap in which Wasmtime would keep external references. Our host functions give out
// none, so nothing is ever put there: it is empty, cannot grow, and lies where a mistake
// would meet the guest's own memory.
static uint8_t *heap_get(void *env, size_t *size, size_t *capacity) {
  *size = *capacity = 0;
  return ((fsl *)env)->base;
}

static wasmtime_error_t *heap_grow(void *env, size_t size) {
  return size ? wasmtime_error_new("there are no external references") : NULL;
}

// While memories are only counted, each is the least that the module takes.
static uint8_t *counted_get(void *env, size_t *size, size_t *capacity) {
  static _Alignas(PAGE) uint8_t nothing[PAGE];
  *size = *capacity = (size_t)env;
  return nothing;
}

// new_memory gives memory 0 the region's address and memory 1 the gate: a prepared module
// has just these two, in this order. Before them Wasmtime asks for a heap if the module
// has a use for external references.
static wasmtime_error_t *new_memory(void *env, const wasm_memorytype_t *type, size_t minimum, size_t maximum,
                                    size_t reserved, size_t guard, wasmtime_linear_memory_t *ret) {
  fsl *f = current;
  ret->env = f;
  ret->finalizer = NULL;
  if (f->counts) {
    f->memories++;
    ret->env = (void *)minimum;
    ret->get_memory = counted_get;
    ret->grow_memory = gate_grow;
    return NULL;
  }
  switch (f->memories++) {
  case -1:
    ret->get_memory = heap_get;
    ret->grow_memory = heap_grow;
    return NULL;
  case 0:
    if (minimum > f->size || reserved > f->reservation)
      return wasmtime_error_new("the region does not fit the module's memory");
    ret->get_memory = memory_get;
    ret->grow_memory = memory_grow;
    return NULL;
  case 1:
    ret->get_memory = gate_get;
    ret->grow_memory = gate_grow;
    return NULL;
  }
  return wasmtime_error_new("a prepared module has two memories");
}

// ---- stacks ----

// Stacks beyond the region's own, for guest code that a host call runs. They are few, and
// kept for ever.
typedef struct stack {
  uint8_t *top;
  size_t len;
  struct stack *next;
} stack;

static struct {
  pthread_mutex_t mu;
  stack *free;
} spare = {PTHREAD_MUTEX_INITIALIZER, NULL};

static uint8_t *region_stack_get(void *env, size_t *len) {
  fsl *f = env;
  *len = f->stack_len;
  return f->stack_top;
}

static void region_stack_free(void *env) { ((fsl *)env)->stack_taken = 0; }

static uint8_t *spare_stack_get(void *env, size_t *len) {
  stack *s = env;
  *len = s->len;
  return s->top;
}

static void spare_stack_free(void *env) {
  stack *s = env;
  pthread_mutex_lock(&spare.mu);
  s->next = spare.free;
  spare.free = s;
  pthread_mutex_unlock(&spare.mu);
}

static wasmtime_error_t *new_stack(void *env, size_t size, bool zeroed, wasmtime_stack_memory_t *ret) {
  fsl *f = current;
  if (!f->stack_taken) {
    f->stack_taken = 1;
    ret->env = f;
    ret->get_stack_memory = region_stack_get;
    ret->finalizer = region_stack_free;
    return NULL;
  }
  pthread_mutex_lock(&spare.mu);
  stack *s = spare.free;
  if (s)
    spare.free = s->next;
  pthread_mutex_unlock(&spare.mu);
  if (!s) {
    uint8_t *p = mmap(NULL, size + PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (p == MAP_FAILED)
      return wasmtime_error_new("no memory left for a stack");
    if (mprotect(p, PAGE, PROT_NONE)) {
      munmap(p, size + PAGE);
      return wasmtime_error_new("no mapping left for a stack's guard");
    }
    s = calloc(1, sizeof *s);
    s->top = p + PAGE + size;
    s->len = size;
  }
  ret->env = s;
  ret->get_stack_memory = spare_stack_get;
  ret->finalizer = spare_stack_free;
  return NULL;
}

// ---- host calls ----

typedef struct fsl_host_info {
  uint32_t index;
  wasmtime_valkind_t kind; // of the result
  struct fsl_host_info *next;
} fsl_host_info;

static uint64_t to_bits(const wasmtime_val_t *v) {
  uint64_t u = 0;
  switch (v->kind) {
  case WASMTIME_I32:
  case WASMTIME_F32:
    memcpy(&u, &v->of, 4);
    break;
  case WASMTIME_I64:
  case WASMTIME_F64:
    memcpy(&u, &v->of, 8);
    break;
  }
  return u;
}

static void from_bits(wasmtime_val_t *v, wasmtime_valkind_t kind, uint64_t u) {
  v->kind = kind;
  memcpy(&v->of, &u, 8);
}

// frame is host call i of those in flight, from the outermost.
static fsl_frame *frame(fsl *f, int i) { return i == 0 ? &f->outer : &f->nested[i - 1]; }

static fsl_frame *waiting(fsl *f) { return frame(f, f->depth - 1); }

static void guest_free(fsl_frame *h) {
  if (!h->guest)
    return;
  if (h->guest->future)
    wasmtime_call_future_delete(h->guest->future);
  free(h->guest);
  h->guest = NULL;
}

// host_continue is polled whenever the fiber is: it is what a suspended host call does.
static bool host_continue(void *env) {
  fsl_frame *h = env;
  fsl *f = h->f;
  switch (h->state) {
  case ANSWERED:
    f->depth--;
    return true;
  case GUEST_WANTED: {
    fsl_guest *g = h->guest;
    g->future = wasmtime_func_call_async(f->context, &g->func, g->args, g->nargs, &g->result, g->nresults, &f->trap, &f->error);
    h->state = GUEST_RUNNING;
  }
    // fall through
  case GUEST_RUNNING:
    if (!wasmtime_call_future_poll(h->guest->future))
      return false; // the guest code called the host; f->event says so
    f->result = h->guest->nresults ? to_bits(&h->guest->result) : 0;
    f->event = f->trap || f->error ? FSL_TRAPPED : FSL_GUEST_DONE;
    guest_free(h);
    h->state = WAITING;
    return false;
  }
  return false;
}

// host_drop runs when the host call is over, or when its fiber is dropped while suspended.
static void host_drop(void *env) { guest_free(env); }

static bool done(void *env) { return true; }

static void host_call(void *env, wasmtime_caller_t *caller, const wasmtime_val_t *args, size_t nargs,
                      wasmtime_val_t *results, size_t nresults, wasm_trap_t **trap,
                      wasmtime_async_continuation_t *k) {
  const fsl_host_info *info = env;
  fsl *f = wasmtime_context_get_data(wasmtime_caller_context(caller));
  if (f->depth == FSL_NESTED_MAX) {
    static const char message[] = "host calls are nested too deeply";
    *trap = wasmtime_trap_new(message, sizeof message - 1);
    *k = (wasmtime_async_continuation_t){.callback = done};
    return;
  }
  if (f->depth > 0 && !f->nested)
    f->nested = calloc(FSL_NESTED_MAX - 1, sizeof *f->nested);
  fsl_frame *h = frame(f, f->depth++);
  h->f = f;
  h->state = WAITING;
  h->kind = info->kind;
  h->results = results;
  h->nresults = nresults;
  h->trap = trap;
  h->guest = NULL;
  f->host = info->index;
  f->nargs = nargs;
  for (size_t i = 0; i < nargs; i++)
    f->args[i] = to_bits(&args[i]);
  f->event = FSL_HOST_CALL;
  *k = (wasmtime_async_continuation_t){.callback = host_continue, .env = h, .finalizer = host_drop};
}

// ---- host functions in C, for what must be faster than a return to Go ----

enum { WASI_SUCCESS = 0, WASI_EFAULT = 21, WASI_EINVAL = 28 };

static bool guest_write(const fsl *f, uint32_t at, uint64_t value) {
  if (f->size < 8 || at > f->size - 8)
    return false;
  memcpy(f->base + at, &value, 8);
  return true;
}

static fsl *caller_fsl(wasmtime_caller_t *c) { return wasmtime_context_get_data(wasmtime_caller_context(c)); }

static int64_t nanoseconds(clockid_t id) {
  struct timespec t;
  clock_gettime(id, &t);
  return (int64_t)t.tv_sec * 1000000000 + t.tv_nsec;
}

int64_t fsl_elapsed(const fsl *f) {
  return f->clock_logical ? f->clock : f->clock + nanoseconds(CLOCK_MONOTONIC) - f->clock_start;
}

static int64_t realtime(const fsl *f) {
  return f->clock_logical ? FSL_CLOCK_EPOCH + f->clock : nanoseconds(CLOCK_REALTIME);
}

// clock_time_get(id, precision, *time): 0 realtime; 1 monotonic, from the start of the
// function's life; 2, 3 the CPU time of process and thread, which a guest gets as its
// monotonic time. A logical clock goes on by a step each time it is read.
static wasm_trap_t *clock_time_get(void *env, wasmtime_caller_t *c, wasmtime_val_raw_t *v, size_t n) {
  fsl *f = caller_fsl(c);
  uint32_t id = v[0].i32, errno_ = WASI_SUCCESS;
  if (id > 3) {
    errno_ = WASI_EINVAL;
  } else {
    if (f->clock_logical)
      f->clock = f->clock < FSL_CLOCK_MAX - FSL_CLOCK_STEP ? f->clock + FSL_CLOCK_STEP : FSL_CLOCK_MAX;
    if (!guest_write(f, v[2].i32, id == 0 ? realtime(f) : fsl_elapsed(f)))
      errno_ = WASI_EFAULT;
  }
  v[0].i32 = errno_;
  return NULL;
}

static wasm_trap_t *clock_res_get(void *env, wasmtime_caller_t *c, wasmtime_val_raw_t *v, size_t n) {
  uint32_t id = v[0].i32;
  v[0].i32 = id > 3 ? WASI_EINVAL : guest_write(caller_fsl(c), v[1].i32, 1) ? WASI_SUCCESS : WASI_EFAULT;
  return NULL;
}

static wasm_trap_t *sched_yield_(void *env, wasmtime_caller_t *c, wasmtime_val_raw_t *v, size_t n) {
  v[0].i32 = WASI_SUCCESS;
  return NULL;
}

static const wasmtime_func_unchecked_callback_t fast[] = {
    [FSL_FAST_CLOCK_TIME_GET] = clock_time_get,
    [FSL_FAST_CLOCK_RES_GET] = clock_res_get,
    [FSL_FAST_SCHED_YIELD] = sched_yield_,
};

// ---- engine and modules ----

char *fsl_engine_new(const fsl_config *config, fsl_engine **out) {
  // With it Wasmtime adds native frames to each trap, looked up at some milliseconds each.
  unsetenv("RUST_BACKTRACE");
  unsetenv("RUST_LIB_BACKTRACE");
  wasm_config_t *c = wasm_config_new();
  wasmtime_config_async_support_set(c, true);
  wasmtime_config_async_stack_size_set(c, config->stack);
  wasmtime_config_max_wasm_stack_set(c, config->wasm_stack);
  wasmtime_config_epoch_interruption_set(c, config->epochs);
  wasmtime_config_memory_init_cow_set(c, false); // else Wasmtime panics with a memory creator
  wasmtime_config_memory_may_move_set(c, false);
  wasmtime_config_memory_reservation_set(c, config->reservation);
  wasmtime_config_memory_guard_size_set(c, config->guard);
  wasmtime_config_native_unwind_info_set(c, false);
  wasmtime_config_wasm_threads_set(c, false);
  wasmtime_config_wasm_multi_memory_set(c, true); // for the gate; guests have one memory
  wasmtime_config_wasm_memory64_set(c, false);
  wasmtime_config_wasm_function_references_set(c, false);
  wasmtime_config_wasm_gc_set(c, false);
  wasmtime_config_wasm_exceptions_set(c, false);
  wasmtime_config_wasm_relaxed_simd_set(c, false);
  wasmtime_config_wasm_tail_call_set(c, true);
  wasmtime_config_wasm_component_model_set(c, false);
  wasmtime_memory_creator_t memories = {.new_memory = new_memory};
  wasmtime_config_host_memory_creator_set(c, &memories);
  wasmtime_stack_creator_t stacks = {.new_stack = new_stack};
  wasmtime_config_host_stack_creator_set(c, &stacks);
  wasm_engine_t *engine = wasm_engine_new_with_config(c); // takes c
  if (!engine)
    return strdup("the engine refused its configuration");
  fsl_engine *e = calloc(1, sizeof *e);
  e->engine = engine;
  e->epochs = config->epochs;
  e->linker = wasmtime_linker_new(engine);
  *out = e;
  return NULL;
}

void fsl_engine_delete(fsl_engine *e) {
  wasmtime_linker_delete(e->linker);
  wasm_engine_delete(e->engine);
  for (fsl_host_info *h = e->hosts; h;) {
    fsl_host_info *next = h->next;
    free(h);
    h = next;
  }
  free(e);
}

static wasm_functype_t *functype(const fsl_host *h) {
  wasm_valtype_vec_t params, results;
  wasm_valtype_t *types[FSL_ARGS_MAX];
  for (uint32_t i = 0; i < h->nparams; i++)
    types[i] = wasm_valtype_new(h->kinds[i]);
  wasm_valtype_vec_new(&params, h->nparams, types);
  for (uint32_t i = 0; i < h->nresults; i++)
    types[i] = wasm_valtype_new(h->kinds[h->nparams + i]);
  wasm_valtype_vec_new(&results, h->nresults, types);
  return wasm_functype_new(&params, &results);
}

char *fsl_engine_define(fsl_engine *e, const fsl_host *h) {
  wasm_functype_t *type = functype(h);
  wasmtime_error_t *err;
  if (h->fast) {
    err = wasmtime_linker_define_func_unchecked(e->linker, h->module, strlen(h->module), h->name, strlen(h->name), type,
                                                fast[h->fast], NULL, NULL);
  } else {
    fsl_host_info *info = calloc(1, sizeof *info);
    info->index = h->index;
    info->kind = h->nresults ? h->kinds[h->nparams] : WASMTIME_I32;
    info->next = e->hosts;
    e->hosts = info;
    err = wasmtime_linker_define_async_func(e->linker, h->module, strlen(h->module), h->name, strlen(h->name), type,
                                            host_call, info, NULL);
  }
  wasm_functype_delete(type);
  return err ? take_message(err) : NULL;
}

// count_memories finds out whether instances of m have a heap, which is asked for before
// their memories and in the same words, by making one. No code of a prepared module runs
// for that, and nothing is written to its memory.
static char *count_memories(fsl_module *m) {
  fsl *f = fsl_new();
  f->counts = true;
  f->stack_taken = 1; // it has none of its own
  char *message = NULL;
  if (fsl_instantiate(f, m) == FSL_FINISHED) {
    m->heap = f->memories == 3;
    if (f->memories != 2 && f->memories != 3)
      message = strdup("a prepared module has two memories");
  } else {
    int code;
    size_t none = 0;
    message = fsl_failure(f, &code, NULL, &none);
  }
  fsl_delete(f);
  return message;
}

static char *module_link(fsl_engine *e, wasmtime_module_t *m, fsl_module **out) {
  wasmtime_instance_pre_t *pre;
  wasmtime_error_t *err = wasmtime_linker_instantiate_pre(e->linker, m, &pre);
  if (err) {
    wasmtime_module_delete(m);
    return take_message(err);
  }
  fsl_module *module = calloc(1, sizeof *module);
  *module = (fsl_module){.engine = e, .module = m, .pre = pre};
  char *message = count_memories(module);
  if (message) {
    fsl_module_delete(module);
    return message;
  }
  *out = module;
  return NULL;
}

char *fsl_module_compile(fsl_engine *e, const uint8_t *wasm, size_t n, fsl_module **out) {
  wasmtime_module_t *m;
  wasmtime_error_t *err = wasmtime_module_new(e->engine, wasm, n, &m);
  return err ? take_message(err) : module_link(e, m, out);
}

char *fsl_module_load(fsl_engine *e, const uint8_t *bytes, size_t n, fsl_module **out) {
  wasmtime_module_t *m;
  wasmtime_error_t *err = wasmtime_module_deserialize(e->engine, bytes, n, &m);
  return err ? take_message(err) : module_link(e, m, out);
}

char *fsl_module_serialize(const fsl_module *m, wasm_byte_vec_t *out) {
  wasmtime_error_t *err = wasmtime_module_serialize(m->module, out);
  return err ? take_message(err) : NULL;
}

size_t fsl_module_code_bytes(const fsl_module *m) {
  void *start, *end;
  wasmtime_module_image_range(m->module, &start, &end);
  return (char *)end - (char *)start;
}

void fsl_module_exports(const fsl_module *m, wasm_exporttype_vec_t *out) { wasmtime_module_exports(m->module, out); }

// The kinds of references have other numbers in types than in values.
static wasmtime_valkind_t valkind(const wasm_valtype_t *t) {
  switch (wasm_valtype_kind(t)) {
  case WASM_FUNCREF:
    return WASMTIME_FUNCREF;
  case WASM_EXTERNREF:
    return WASMTIME_EXTERNREF;
  }
  return wasm_valtype_kind(t);
}

void fsl_export_at(const wasm_exporttype_vec_t *exports, size_t i, fsl_export *out) {
  const wasm_exporttype_t *e = exports->data[i];
  const wasm_name_t *name = wasm_exporttype_name(e);
  const wasm_externtype_t *type = wasm_exporttype_type(e);
  *out = (fsl_export){.name = name->data, .n = name->size, .kind = wasm_externtype_kind(type)};
  if (out->kind == WASM_EXTERN_GLOBAL) {
    const wasm_globaltype_t *g = wasm_externtype_as_globaltype_const(type);
    out->type = valkind(wasm_globaltype_content(g));
    out->mutable_ = wasm_globaltype_mutability(g) == WASM_VAR;
  } else if (out->kind == WASM_EXTERN_TABLE) {
    const wasm_tabletype_t *t = wasm_externtype_as_tabletype_const(type);
    out->type = valkind(wasm_tabletype_element(t));
    out->min = wasm_tabletype_limits(t)->min;
    out->max = wasm_tabletype_limits(t)->max;
  }
}

char *fsl_module_validate(fsl_engine *e, const uint8_t *wasm, size_t n) {
  wasmtime_error_t *err = wasmtime_module_validate(e->engine, wasm, n);
  return err ? take_message(err) : NULL;
}

static void restore_free(fsl_restore *r) {
  for (size_t i = 0; i < r->nfuncs; i++)
    free(r->funcs[i].at);
  for (size_t i = 0; i < r->nglobals; i++)
    free(r->globals[i].name.at);
  for (size_t i = 0; i < r->ntables; i++) {
    free(r->tables[i].name.at);
    free(r->tables[i].elements);
  }
  free(r->funcs);
  free(r->globals);
  free(r->tables);
  free(r);
}

void fsl_module_can_reset(fsl_module *m, fsl_name *resets, size_t nresets) {
  m->resets = resets;
  m->nresets = nresets;
  m->can_reset = !m->heap;
}

void fsl_module_delete(fsl_module *m) {
  if (m->restore)
    restore_free(m->restore);
  for (size_t i = 0; i < m->nresets; i++)
    free(m->resets[i].at);
  free(m->resets);
  wasmtime_instance_pre_delete(m->pre);
  wasmtime_module_delete(m->module);
  free(m);
}

char *fsl_wat(const char *text, size_t n, wasm_byte_vec_t *out) {
  wasmtime_error_t *err = wasmtime_wat2wasm(text, n, out);
  return err ? take_message(err) : NULL;
}

// ---- instances ----

fsl *fsl_new(void) { return calloc(1, sizeof(fsl)); }

// find looks an export up. It returns false if there is none of that kind.
static bool find(fsl *f, const char *export, size_t n, wasmtime_extern_kind_t kind, wasmtime_extern_t *item) {
  return wasmtime_instance_export_get(f->context, &f->instance, export, n, item) && item->kind == kind;
}

// restore_fail makes the instance trapped. SetRestore has checked all that can be known of
// a module without an instance, so what is left is a want of memory.
static bool restore_fail(fsl *f, const char *what, const fsl_name *name, wasmtime_error_t *err) {
  char text[256], *cause = err ? take_message(err) : strdup("it is not there");
  snprintf(text, sizeof text, "restore %s %.*s: %s", what, (int)(name->n < 100 ? name->n : 100), name->at, cause);
  free(cause);
  f->error = wasmtime_error_new(text);
  return false;
}

static void set_reference(wasmtime_val_t *v, wasmtime_valkind_t kind, const wasmtime_func_t *func) {
  v->kind = kind;
  if (kind == WASMTIME_FUNCREF)
    v->of.funcref = *func;
  else
    v->of.externref = (wasmtime_externref_t){0}; // null: no other can be in a snapshot
}

static bool restore_table(fsl *f, const fsl_restore_table *t, const wasmtime_func_t *funcs) {
  wasmtime_extern_t item;
  if (!find(f, t->name.at, t->name.n, WASMTIME_EXTERN_TABLE, &item))
    return restore_fail(f, "table", &t->name, NULL);
  const wasmtime_table_t *table = &item.of.table;
  wasmtime_val_t v;
  set_reference(&v, t->kind, &funcs[0]);
  uint64_t size = wasmtime_table_size(f->context, table);
  wasmtime_error_t *err = size < t->size ? wasmtime_table_grow(f->context, table, t->size - size, &v, &size) : NULL;
  for (size_t i = 0; !err && i < t->nelements; i++) {
    set_reference(&v, t->kind, &funcs[t->elements[i].func]);
    err = wasmtime_table_set(f->context, table, t->elements[i].index, &v);
  }
  return err ? restore_fail(f, "table", &t->name, err) : true;
}

static bool restore_global(fsl *f, const fsl_restore_global *g, const wasmtime_func_t *funcs) {
  wasmtime_extern_t item;
  if (!find(f, g->name.at, g->name.n, WASMTIME_EXTERN_GLOBAL, &item))
    return restore_fail(f, "global", &g->name, NULL);
  wasmtime_val_t v;
  if (g->kind <= WASMTIME_V128) {
    v.kind = g->kind;
    memcpy(&v.of, g->bits, sizeof g->bits);
  } else {
    set_reference(&v, g->kind, &funcs[g->func]);
  }
  wasmtime_error_t *err = wasmtime_global_set(f->context, &item.of.global, &v);
  return err ? restore_fail(f, "global", &g->name, err) : true;
}

static bool restore(fsl *f, const fsl_restore *r) {
  f->clock = r->clock;
  wasmtime_func_t null = {0}, *funcs = &null;
  if (r->nfuncs)
    funcs = calloc(1 + r->nfuncs, sizeof *funcs); // funcs[0] is null
  bool ok = true;
  for (size_t i = 0; ok && i < r->nfuncs; i++) {
    wasmtime_extern_t item;
    ok = find(f, r->funcs[i].at, r->funcs[i].n, WASMTIME_EXTERN_FUNC, &item);
    if (ok)
      funcs[1 + i] = item.of.func;
    else
      restore_fail(f, "function", &r->funcs[i], NULL);
  }
  for (size_t i = 0; ok && i < r->nglobals; i++)
    ok = restore_global(f, &r->globals[i], funcs);
  for (size_t i = 0; ok && i < r->ntables; i++)
    ok = restore_table(f, &r->tables[i], funcs);
  if (funcs != &null)
    free(funcs);
  return ok;
}

// A mutable global, and what it holds when an instance is made.
typedef struct fsl_first {
  wasmtime_global_t global;
  wasmtime_val_t value;
} fsl_first;

// remember keeps what fsl_reset needs.
static bool remember(fsl *f, const fsl_module *m) {
  f->first = calloc(m->nresets + 1, sizeof *f->first);
  for (size_t i = 0; i < m->nresets; i++) {
    wasmtime_extern_t item;
    if (!find(f, m->resets[i].at, m->resets[i].n, WASMTIME_EXTERN_GLOBAL, &item))
      return restore_fail(f, "global", &m->resets[i], NULL);
    f->first[i].global = item.of.global;
    wasmtime_global_get(f->context, &item.of.global, &f->first[i].value);
  }
  return true;
}

bool fsl_reset(fsl *f, const fsl_module *m) {
  if (!f->first || f->future || f->trap || f->error || f->depth || f->size != f->first_size || f->clock_logical ||
      ++f->resets > FSL_RESETS_MAX)
    return false;
  for (size_t i = 0; i < m->nresets; i++) {
    wasmtime_error_t *err = wasmtime_global_set(f->context, &f->first[i].global, &f->first[i].value);
    if (err) {
      wasmtime_error_delete(err);
      return false;
    }
  }
  f->grow_refused = f->host = f->nargs = 0;
  f->result = 0;
  f->reset = true;
  return true;
}

// instantiate makes the store and the instance, and restores it. A prepared module has no
// start function, so no guest code runs here and no fiber is ever suspended.
static bool instantiate(fsl *f, const fsl_module *m) {
  f->store = wasmtime_store_new(m->engine->engine, f, NULL);
  f->context = wasmtime_store_context(f->store);
  if (m->table_elements_max)
    wasmtime_store_limiter(f->store, -1, m->table_elements_max, -1, -1, -1);
  if (m->engine->epochs)
    wasmtime_context_set_epoch_deadline(f->context, UINT64_MAX / 2);
  f->clock_start = nanoseconds(CLOCK_MONOTONIC);
  f->memories = m->heap ? -1 : 0;
  wasmtime_call_future_t *future =
      wasmtime_instance_pre_instantiate_async(m->pre, f->context, &f->instance, &f->trap, &f->error);
  while (!wasmtime_call_future_poll(future))
    ;
  wasmtime_call_future_delete(future);
  bool ok = !f->trap && !f->error && (!m->restore || restore(f, m->restore)) && (!m->can_reset || remember(f, m));
  f->first_size = f->size;
  f->start_ns = nanoseconds(CLOCK_MONOTONIC) - f->clock_start;
  return ok;
}

// poll runs the guest until it finishes, dies or calls the host.
static int poll(fsl *f) {
  fsl *outer = current;
  current = f;
  f->event = -1;
  bool finished = wasmtime_call_future_poll(f->future);
  current = outer;
  if (!finished)
    return f->event;
  wasmtime_call_future_delete(f->future);
  f->future = NULL;
  if (f->trap || f->error)
    return FSL_TRAPPED;
  f->result = f->nresults ? to_bits(&f->value) : 0;
  return FSL_FINISHED;
}

// signature tells whether func takes nparams i32 and returns at most one number, and how
// many it returns.
static bool signature(fsl *f, const wasmtime_func_t *func, size_t nparams, size_t *nresults) {
  wasm_functype_t *type = wasmtime_func_type(f->context, func);
  const wasm_valtype_vec_t *params = wasm_functype_params(type), *results = wasm_functype_results(type);
  bool ok = params->size == nparams && results->size <= 1;
  for (size_t i = 0; ok && i < params->size; i++)
    ok = wasm_valtype_kind(params->data[i]) == WASM_I32;
  if (ok && results->size)
    ok = wasm_valtype_kind(results->data[0]) <= WASM_F64;
  *nresults = results->size;
  wasm_functype_delete(type);
  return ok;
}

static int run(fsl *f) {
  f->future = wasmtime_func_call_async(f->context, &f->func, NULL, 0, &f->value, f->nresults, &f->trap, &f->error);
  return poll(f);
}

int fsl_instantiate(fsl *f, const fsl_module *m) {
  if (f->reset) {
    f->reset = false;
    f->clock_start = nanoseconds(CLOCK_MONOTONIC);
    f->start_ns = 0;
    return FSL_FINISHED;
  }
  current = f;
  bool ok = f->store || instantiate(f, m);
  current = NULL;
  return ok ? FSL_FINISHED : FSL_TRAPPED;
}

int fsl_start(fsl *f, const fsl_module *m, const char *export, size_t n, size_t nresults) {
  if (fsl_instantiate(f, m) == FSL_TRAPPED)
    return FSL_TRAPPED;
  if (n != f->entry_n || memcmp(export, f->entry_name, n)) {
    wasmtime_extern_t item;
    if (!find(f, export, n, WASMTIME_EXTERN_FUNC, &item))
      return FSL_NO_ENTRY;
    f->entry = item.of.func;
    f->entry_n = n <= sizeof f->entry_name ? n : 0;
    memcpy(f->entry_name, export, f->entry_n);
  }
  f->func = f->entry;
  f->nresults = nresults;
  return run(f);
}

static bool table_entry(fsl *f, const char *table, size_t n, uint32_t index, wasmtime_func_t *func) {
  wasmtime_extern_t item;
  wasmtime_val_t value;
  if (!find(f, table, n, WASMTIME_EXTERN_TABLE, &item) ||
      !wasmtime_table_get(f->context, &item.of.table, index, &value))
    return false;
  bool ok = value.kind == WASMTIME_FUNCREF && value.of.funcref.store_id != 0;
  if (ok)
    *func = value.of.funcref;
  else
    wasmtime_val_unroot(&value);
  return ok;
}

int fsl_start_table(fsl *f, const fsl_module *m, const char *table, size_t n, uint32_t index) {
  if (fsl_instantiate(f, m) == FSL_TRAPPED)
    return FSL_TRAPPED;
  if (!table_entry(f, table, n, index, &f->func) || !signature(f, &f->func, 0, &f->nresults))
    return FSL_NO_ENTRY;
  return run(f);
}

bool fsl_table_has_entry(fsl *f, const char *table, size_t n, uint32_t index) {
  wasmtime_func_t func;
  size_t nresults;
  return table_entry(f, table, n, index, &func) && signature(f, &func, 0, &nresults) && nresults == 1;
}

char *fsl_grow(fsl *f, const char *export, size_t n, uint64_t pages) {
  wasmtime_extern_t item;
  uint64_t before;
  if (!find(f, export, n, WASMTIME_EXTERN_MEMORY, &item))
    return strdup("it is not exported");
  f->host_grows = true;
  wasmtime_error_t *err = wasmtime_memory_grow(f->context, &item.of.memory, pages, &before);
  f->host_grows = false;
  return err ? take_message(err) : NULL;
}

// ---- page faults ----

bool fsl_thread_faulted(void) {
  static _Thread_local long seen = -1;
  struct rusage u;
  if (getrusage(RUSAGE_THREAD, &u))
    return true;
  long now = u.ru_minflt + u.ru_majflt;
  bool faulted = now != seen;
  seen = now;
  return faulted;
}

bool fsl_counts_faults(void) {
  enum { PAGES = 64 };
  uint8_t *p = mmap(NULL, PAGES * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (p == MAP_FAILED)
    return false;
  madvise(p, PAGES * PAGE, MADV_NOHUGEPAGE);
  bool counts = true, settles = false;
  fsl_thread_faulted();
  for (int i = 0; i < PAGES; i++) {
    *(volatile uint8_t *)(p + i * PAGE) = 1;
    counts &= fsl_thread_faulted(); // for each page
    *(volatile uint8_t *)(p + i * PAGE) = 2;
    settles |= !fsl_thread_faulted();
  }
  munmap(p, PAGES * PAGE);
  return counts && settles;
}

// ---- reading, for a snapshot ----

static uintptr_t func_id(fsl *f, const wasmtime_func_t *func) {
  return func->store_id ? (uintptr_t)wasmtime_func_to_raw(f->context, func) : 0;
}

// reference_id takes v over.
static int reference_id(fsl *f, wasmtime_val_t *v, uintptr_t *id) {
  *id = 0;
  if (v->kind == WASMTIME_FUNCREF) {
    *id = func_id(f, &v->of.funcref);
    return FSL_READ;
  }
  int r = v->kind != WASMTIME_EXTERNREF ? FSL_NOT_THERE : v->of.externref.store_id ? FSL_NOT_NULL : FSL_READ;
  wasmtime_val_unroot(v);
  return r;
}

int fsl_func_id(fsl *f, const char *export, size_t n, uintptr_t *id) {
  wasmtime_extern_t item;
  if (!find(f, export, n, WASMTIME_EXTERN_FUNC, &item))
    return FSL_NOT_THERE;
  *id = func_id(f, &item.of.func);
  return FSL_READ;
}

int fsl_global(fsl *f, const char *export, size_t n, wasmtime_valkind_t *kind, uint8_t *bits, uintptr_t *id) {
  static const uint8_t size[] = {4, 8, 4, 8, 16};
  wasmtime_extern_t item;
  if (!find(f, export, n, WASMTIME_EXTERN_GLOBAL, &item))
    return FSL_NOT_THERE;
  wasmtime_val_t v;
  wasmtime_global_get(f->context, &item.of.global, &v);
  *kind = v.kind;
  if (v.kind > WASMTIME_V128)
    return reference_id(f, &v, id);
  memcpy(bits, &v.of, size[v.kind]);
  return FSL_READ;
}

int fsl_table_size(fsl *f, const char *export, size_t n, uint64_t *size) {
  wasmtime_extern_t item;
  if (!find(f, export, n, WASMTIME_EXTERN_TABLE, &item))
    return FSL_NOT_THERE;
  *size = wasmtime_table_size(f->context, &item.of.table);
  return FSL_READ;
}

int fsl_table_ids(fsl *f, const char *export, size_t n, uint64_t *from, uintptr_t *ids, size_t nids) {
  wasmtime_extern_t item;
  if (!find(f, export, n, WASMTIME_EXTERN_TABLE, &item))
    return FSL_NOT_THERE;
  for (size_t i = 0; i < nids; i++) {
    wasmtime_val_t v;
    if (!wasmtime_table_get(f->context, &item.of.table, *from, &v))
      return FSL_NOT_THERE;
    int r = reference_id(f, &v, &ids[i]);
    if (r != FSL_READ)
      return r;
    ++*from;
  }
  return FSL_READ;
}

int fsl_answer(fsl *f, uint64_t result) {
  fsl_frame *h = waiting(f);
  if (h->nresults)
    from_bits(&h->results[0], h->kind, result);
  h->state = ANSWERED;
  return poll(f);
}

int fsl_answer_trap(fsl *f, const char *message, size_t n) {
  fsl_frame *h = waiting(f);
  *h->trap = wasmtime_trap_new(message, n);
  h->state = ANSWERED;
  return poll(f);
}

int fsl_call_guest(fsl *f, const char *export, size_t n, uint32_t nargs, uint32_t a0, uint32_t a1) {
  fsl_frame *h = waiting(f);
  wasmtime_extern_t item;
  size_t nresults;
  if (!find(f, export, n, WASMTIME_EXTERN_FUNC, &item) ||
      !signature(f, &item.of.func, nargs, &nresults))
    return FSL_NO_ENTRY;
  fsl_guest *g = h->guest = calloc(1, sizeof *g);
  g->func = item.of.func;
  g->nargs = nargs;
  g->nresults = nresults;
  from_bits(&g->args[0], WASMTIME_I32, a0);
  from_bits(&g->args[1], WASMTIME_I32, a1);
  h->state = GUEST_WANTED;
  return poll(f);
}

void fsl_delete(fsl *f) {
  fsl *outer = current;
  current = f;
  if (f->future)
    wasmtime_call_future_delete(f->future);
  if (f->trap)
    wasm_trap_delete(f->trap);
  if (f->error)
    wasmtime_error_delete(f->error);
  if (f->store)
    wasmtime_store_delete(f->store);
  current = outer;
  free(f->nested);
  free(f->first);
  free(f);
}

char *fsl_failure(fsl *f, int *code, fsl_stack_frame *frames, size_t *nframes) {
  wasm_byte_vec_t m = {0};
  wasm_frame_vec_t trace = {0};
  *code = -1;
  if (f->trap) {
    wasmtime_trap_code_t c;
    if (wasmtime_trap_code(f->trap, &c))
      *code = c;
    wasm_trap_message(f->trap, &m);
    wasm_trap_trace(f->trap, &trace);
  } else if (f->error) {
    wasmtime_error_message(f->error, &m);
    wasmtime_error_wasm_trace(f->error, &trace);
  }
  size_t n = trace.size < *nframes ? trace.size : *nframes;
  for (size_t i = 0; i < n; i++) {
    frames[i].func_index = wasm_frame_func_index(trace.data[i]);
    frames[i].offset = wasm_frame_func_offset(trace.data[i]);
    const wasm_name_t *name = wasmtime_frame_func_name(trace.data[i]);
    frames[i].name[0] = 0;
    if (name)
      snprintf(frames[i].name, sizeof frames[i].name, "%.*s", (int)name->size, name->data);
  }
  *nframes = n;
  if (trace.data)
    wasm_frame_vec_delete(&trace);
  char *s = calloc(1, m.size + 1);
  if (m.size)
    memcpy(s, m.data, m.size);
  if (m.data)
    wasm_byte_vec_delete(&m);
  return s;
}
