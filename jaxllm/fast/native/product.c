/* Matrix products by oneDNN or a BLAS, as a custom call of XLA on a CPU: c = op(a) op(b), for a batch of matrices too.

   Compiled by `build.py` against the C interface of XLA's FFI. Nothing is linked: `libraries.py` looks the functions up
   in an installed package and passes their addresses to `jaxllm_setup`.

   The library computes in the calling thread only. A product is cut into as many parts as XLA has threads, and the parts
   are tasks of XLA's own pool, so that no second pool of threads competes with it for the cores. */

#include <string.h>

#include "tasks.h"

enum { ONEDNN, BLAS }; /* the attribute `library` is ONEDNN, or BLAS + the index of a BLAS */
enum { BATCH, ROWS, COLUMNS };
#define MOST_BLAS 4
#define SMALLEST_PART (1 << 20) /* multiplications, below which a task of its own does not pay */

/* The sizes of a product [m, k] x [k, n], the rows' lengths in memory, and the numbers from matrix to matrix. */
typedef struct {
  int64_t batch, m, n, k, row_a, row_b, row_c, next_a, next_b, next_c;
  int32_t transpose_a, transpose_b, type_in, type_out; /* types as oneDNN numbers them: 2 bfloat16, 3 float32 */
} Shape;

/* ---- oneDNN. Its types are opaque pointers; the numbers are those of its C interface, versions 3. ---- */

typedef struct { int argument; void* memory; } Argument;
enum { SOURCE = 1, WEIGHTS = 33, DESTINATION = 17, CPU = 1, IN_ORDER = 1 };

static struct {
  int (*engine)(void** engine, int kind, size_t index);
  int (*stream)(void** stream, void* engine, unsigned flags);
  int (*descriptor)(void** descriptor, int axes, const int64_t* sizes, int type, const int64_t* strides);
  int (*matmul)(void** product, void* engine, void* a, void* b, void* bias, void* c, void* attributes);
  int (*primitive)(void** primitive, void* product);
  int (*memory)(void** memory, void* descriptor, void* engine, void* data);
  int (*set_data)(void* memory, void* data);
  int (*execute)(void* primitive, void* stream, int n, const Argument* arguments);
  int (*wait)(void* stream);
  int (*destroy_descriptor)(void* descriptor);
  int (*destroy_product)(void* product);
  int (*destroy_memory)(void* memory);
  int (*destroy_primitive)(void* primitive);
  int (*get_threads)(void);
  void (*set_threads)(int n); /* OpenMP's, for the calling thread */
} dnnl;
static void* engine;

/* Each thread prepares a product of a shape once, because oneDNN's scratch memory belongs to a thread. */
typedef struct { Shape shape; void *primitive, *a, *b, *c; } Prepared;
#define MOST_PREPARED 512
static _Thread_local Prepared* prepared;
static _Thread_local void* stream;

static void release(Prepared* p) {
  void* memories[] = {p->a, p->b, p->c};
  for (int i = 0; i < 3; i++)
    if (memories[i]) dnnl.destroy_memory(memories[i]);
  if (p->primitive) dnnl.destroy_primitive(p->primitive);
  memset(p, 0, sizeof *p);
}

static int prepare(Prepared* p, const Shape* s) {
  int64_t a[] = {s->batch, s->m, s->k}, b[] = {s->batch, s->k, s->n}, c[] = {s->batch, s->m, s->n};
  int64_t step_a[] = {s->next_a, s->transpose_a ? 1 : s->row_a, s->transpose_a ? s->row_a : 1};
  int64_t step_b[] = {s->next_b, s->transpose_b ? 1 : s->row_b, s->transpose_b ? s->row_b : 1};
  int64_t step_c[] = {s->next_c, s->row_c, 1};
  int skip = s->batch == 1; /* it has no batch axis, for which other kernels may run */
  void *of[3] = {0}, *product = 0;
  p->shape = *s;
  int failed = dnnl.descriptor(&of[0], 3 - skip, a + skip, s->type_in, step_a + skip) ||
               dnnl.descriptor(&of[1], 3 - skip, b + skip, s->type_in, step_b + skip) ||
               dnnl.descriptor(&of[2], 3 - skip, c + skip, s->type_out, step_c + skip) ||
               dnnl.matmul(&product, engine, of[0], of[1], 0, of[2], 0) || dnnl.memory(&p->a, of[0], engine, 0) ||
               dnnl.memory(&p->b, of[1], engine, 0) || dnnl.memory(&p->c, of[2], engine, 0) ||
               dnnl.primitive(&p->primitive, product);
  for (int i = 0; i < 3; i++)
    if (of[i]) dnnl.destroy_descriptor(of[i]);
  if (product) dnnl.destroy_product(product);
  if (failed) release(p);
  return failed;
}

/* The product of this shape in this thread's table, by open addressing; 0 if it cannot be computed. */
static Prepared* look_up(const Shape* s) {
  if (!prepared && !(prepared = calloc(MOST_PREPARED, sizeof *prepared))) return 0;
  if (!stream && dnnl.stream(&stream, engine, IN_ORDER)) return 0;
  uint64_t hash = 14695981039346656037u;
  for (size_t i = 0; i < sizeof *s; i++) hash = (hash ^ ((const unsigned char*)s)[i]) * 1099511628211u;
  for (int i = 0; i < MOST_PREPARED; i++) {
    Prepared* p = &prepared[(hash + i) % MOST_PREPARED];
    if (!p->primitive) return prepare(p, s) ? 0 : p;
    if (!memcmp(&p->shape, s, sizeof *s)) return p;
  }
  Prepared* p = &prepared[hash % MOST_PREPARED]; /* the table is full */
  release(p);
  return prepare(p, s) ? 0 : p;
}

static int by_onednn(const Shape* s, void* a, void* b, void* c) {
  int threads = dnnl.get_threads();
  dnnl.set_threads(1);
  Prepared* p = look_up(s);
  int failed = !p;
  if (p) {
    Argument arguments[] = {{SOURCE, p->a}, {WEIGHTS, p->b}, {DESTINATION, p->c}};
    failed = dnnl.set_data(p->a, a) || dnnl.set_data(p->b, b) || dnnl.set_data(p->c, c) ||
             dnnl.execute(p->primitive, stream, 3, arguments) || dnnl.wait(stream);
  }
  dnnl.set_threads(threads);
  return failed;
}

/* ---- A BLAS, for float32. ---- */

typedef void Sgemm(int order, int transpose_a, int transpose_b, int m, int n, int k, float alpha, const float* a,
                   int row_a, const float* b, int row_b, float beta, float* c, int row_c);
enum { ROW_MAJOR = 101, AS_IS = 111, TRANSPOSED = 112 };
static Sgemm* blas[MOST_BLAS];

static int by_blas(Sgemm* sgemm, const Shape* s, float* a, float* b, float* c) {
  for (int64_t i = 0; i < s->batch; i++)
    sgemm(ROW_MAJOR, s->transpose_a ? TRANSPOSED : AS_IS, s->transpose_b ? TRANSPOSED : AS_IS, s->m, s->n, s->k, 1,
          a + i * s->next_a, s->row_a, b + i * s->next_b, s->row_b, 0, c + i * s->next_c, s->row_c);
  return 0;
}

/* The functions of a library, in the order of `dnnl`, or cblas_sgemm alone. Returns 0 if it can be used. */
int jaxllm_setup(int library, void** functions) {
  if (library == ONEDNN) {
    memcpy(&dnnl, functions, sizeof dnnl);
    return !engine && dnnl.engine(&engine, CPU, 0);
  }
  memcpy(&blas[library - BLAS], functions, sizeof(Sgemm*));
  return 0;
}

/* ---- Parts of a product, as tasks. ---- */

typedef struct {
  Tasks tasks;
  Shape shape;
  char *a, *b, *c;
  int library, axis;
} Work;

static int compute(Tasks* tasks, int part) {
  Work* w = (Work*)tasks;
  Shape s = w->shape;
  int64_t in = s.type_in == 2 ? 2 : 4, out = s.type_out == 2 ? 2 : 4;
  char *a = w->a, *b = w->b, *c = w->c;
  int64_t* size = w->axis == BATCH ? &s.batch : w->axis == ROWS ? &s.m : &s.n;
  int64_t first = *size * part / tasks->parts;
  *size = *size * (part + 1) / tasks->parts - first;
  if (w->axis == BATCH) a += first * s.next_a * in, b += first * s.next_b * in, c += first * s.next_c * out;
  if (w->axis == ROWS) a += first * (s.transpose_a ? 1 : s.row_a) * in, c += first * s.row_c * out;
  if (w->axis == COLUMNS) b += first * (s.transpose_b ? s.row_b : 1) * in, c += first * out;
  return w->library == ONEDNN ? by_onednn(&s, a, b, c)
                              : by_blas(blas[w->library - BLAS], &s, (float*)a, (float*)b, (float*)c);
}

static int64_t attribute(XLA_FFI_CallFrame* call, int index) {
  return *(int64_t*)((XLA_FFI_Scalar*)call->attrs.attrs[index])->value;
}

/* Arguments a and b [..., m, k] and [..., k, n], or transposed, with equal axes in front; the result [..., m, n]. */
XLA_FFI_Error* jaxllm_product(XLA_FFI_CallFrame* call) {
  if (asks_version(call)) return 0;
  XLA_FFI_Buffer *a = call->args.args[0], *b = call->args.args[1], *c = call->rets.rets[0];
  int axes = c->rank;
  int64_t *of_a = a->dims + axes - 2, *of_b = b->dims + axes - 2, *of_c = c->dims + axes - 2; /* the last two axes */
  Work* w = calloc(1, sizeof *w);
  if (!w) return error_of(call, "there is no memory for a matrix product");
  Shape* s = &w->shape;
  w->library = attribute(call, 0); /* attributes are sorted by name: library, transpose_a, transpose_b */
  s->transpose_a = attribute(call, 1), s->transpose_b = attribute(call, 2);
  s->batch = 1;
  for (int i = 0; i < axes - 2; i++) s->batch *= c->dims[i];
  s->m = of_c[0], s->n = of_c[1], s->k = of_a[s->transpose_a ? 0 : 1];
  if (of_b[s->transpose_b ? 1 : 0] != s->k) {
    free(w);
    return error_of(call, "the operands of a matrix product do not fit");
  }
  s->row_a = of_a[1], s->row_b = of_b[1], s->row_c = of_c[1];
  s->next_a = of_a[0] * of_a[1], s->next_b = of_b[0] * of_b[1], s->next_c = of_c[0] * of_c[1];
  s->type_in = a->dtype == XLA_FFI_DataType_BF16 ? 2 : 3, s->type_out = c->dtype == XLA_FFI_DataType_BF16 ? 2 : 3;
  w->a = a->data, w->b = b->data, w->c = c->data;
  w->axis = s->batch > 1 ? BATCH : s->m >= s->n ? ROWS : COLUMNS;
  int64_t longest = w->axis == BATCH ? s->batch : w->axis == ROWS ? s->m : s->n;
  int64_t most = s->batch * s->m * s->n * s->k / SMALLEST_PART + 1, threads = threads_of(call);
  if (most > longest) most = longest;
  return share(call, &w->tasks, compute, threads < most ? threads : most)
             ? error_of(call, "the library of matrix products refused a product")
             : 0;
}
