/* Parts of a custom call as tasks of XLA's own pool of threads, and what each custom call answers. */

#include <sched.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdlib.h>

#include "xla/ffi/api/c_api.h"

/* The head of a block of memory from calloc. The parts are taken one by one. */
typedef struct Tasks {
  int (*compute)(struct Tasks*, int part); /* returns whether it failed */
  int parts;
  atomic_int next, done, failed, users; /* the last user frees the memory */
} Tasks;

static void compute_parts(Tasks* w) {
  for (int part; (part = w->next++) < w->parts; w->done++)
    if (w->compute(w, part)) w->failed = 1;
}

static void run(void* tasks) {
  Tasks* w = tasks;
  compute_parts(w);
  if (--w->users == 0) free(w);
}

static int threads_of(XLA_FFI_CallFrame* call) {
  int64_t n = 1;
  XLA_FFI_ThreadPool_NumThreads_Args args = {XLA_FFI_ThreadPool_NumThreads_Args_STRUCT_SIZE, 0, call->ctx, &n};
  XLA_FFI_Error* error = call->api->XLA_FFI_ThreadPool_NumThreads(&args);
  if (error) {
    XLA_FFI_Error_Destroy_Args destroy = {XLA_FFI_Error_Destroy_Args_STRUCT_SIZE, 0, error};
    call->api->XLA_FFI_Error_Destroy(&destroy);
    return 1;
  }
  return n;
}

/* Computes all parts in the pool's threads and in this one, and returns whether one failed. Frees w in the end. */
static int share(XLA_FFI_CallFrame* call, Tasks* w, int (*compute)(Tasks*, int part), int parts) {
  w->compute = compute, w->parts = parts, w->users = 1;
  for (int i = 1; i < w->parts; i++) {
    w->users++;
    XLA_FFI_ThreadPool_Schedule_Args args = {XLA_FFI_ThreadPool_Schedule_Args_STRUCT_SIZE, 0, call->ctx, run, w};
    XLA_FFI_Error* error = call->api->XLA_FFI_ThreadPool_Schedule(&args);
    if (error) { /* this thread computes all parts that no other takes */
      XLA_FFI_Error_Destroy_Args destroy = {XLA_FFI_Error_Destroy_Args_STRUCT_SIZE, 0, error};
      call->api->XLA_FFI_Error_Destroy(&destroy);
      w->users--;
      break;
    }
  }
  compute_parts(w);
  while (w->done < w->parts) sched_yield();
  int failed = w->failed;
  if (--w->users == 0) free(w);
  return failed;
}

static XLA_FFI_Error* error_of(XLA_FFI_CallFrame* call, const char* message) {
  XLA_FFI_Error_Create_Args args = {XLA_FFI_Error_Create_Args_STRUCT_SIZE, 0, message, XLA_FFI_Error_Code_INTERNAL};
  return call->api->XLA_FFI_Error_Create(&args);
}

/* Whether XLA asks, when a target is registered, for the version of its interface; the answer is then given. */
static int asks_version(XLA_FFI_CallFrame* call) {
  if (!call->extension_start || call->extension_start->type != XLA_FFI_Extension_Metadata) return 0;
  XLA_FFI_Metadata* about = ((XLA_FFI_Metadata_Extension*)call->extension_start)->metadata;
  about->api_version.major_version = XLA_FFI_API_MAJOR;
  about->api_version.minor_version = XLA_FFI_API_MINOR;
  return 1;
}
