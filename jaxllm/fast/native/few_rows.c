/* Products of a few rows with weights that lie by outputs: y = x w^T of x [m, k] and w [n, k] in float32.

   The memory limits such a product, so each weight is read once, for all rows, and the next ones are fetched ahead. The
   outputs are cut over XLA's threads. Each number of y is one sum in the same order whatever m is, so that a row's result
   does not depend on the other rows. The vectors are those of GCC and Clang. */

#include "tasks.h"

#if defined __AVX512F__ /* ROWS x COLUMNS sums, some weights and a vector of x fit into the registers */
enum { BYTES = 64, ROWS = 8, COLUMNS = 3 };
#elif defined __AVX__
enum { BYTES = 32, ROWS = 2, COLUMNS = 4 };
#else
enum { BYTES = 16, ROWS = 2, COLUMNS = 4 };
#endif
enum { LANES = BYTES / sizeof(float) };
#define SMALLEST_PART (1 << 14) /* weights, below which a task of its own does not pay */

typedef float Vector __attribute__((vector_size(BYTES), aligned(sizeof(float))));

typedef struct {
  Tasks tasks;
  int64_t m, n, k;
  const float *x, *w;
  float* y;
} Work;

/* A tile of y; `rows` and `columns` are constants wherever it is called. */
static inline __attribute__((always_inline)) void tile(int rows, int columns, int64_t n, int64_t k, const float* x,
                                                       const float* w, float* y) {
  Vector sums[ROWS][COLUMNS] = {0};
  int64_t d = 0;
  for (; d + LANES <= k; d += LANES) {
    Vector weights[COLUMNS];
    for (int j = 0; j < columns; j++) {
      weights[j] = *(const Vector*)(w + j * k + d);
      __builtin_prefetch(w + (j + columns) * k + d);
    }
    for (int i = 0; i < rows; i++) {
      Vector a = *(const Vector*)(x + i * k + d);
      for (int j = 0; j < columns; j++) sums[i][j] += a * weights[j];
    }
  }
  for (int i = 0; i < rows; i++)
    for (int j = 0; j < columns; j++) {
      float sum = 0;
      for (int lane = 0; lane < LANES; lane++) sum += sums[i][j][lane];
      for (int64_t rest = d; rest < k; rest++) sum += x[i * k + rest] * w[j * k + rest];
      y[i * n + j] = sum;
    }
}

static int compute(Tasks* tasks, int part) {
  Work* s = (Work*)tasks;
  int64_t tiles = (s->n + COLUMNS - 1) / COLUMNS;
  int64_t first = tiles * part / tasks->parts * COLUMNS, end = tiles * (part + 1) / tasks->parts * COLUMNS;
  if (end > s->n) end = s->n;
  for (int64_t f = first, columns; f < end; f += columns) {
    columns = end - f >= COLUMNS ? COLUMNS : 1;
    const float* w = s->w + f * s->k;
    for (int64_t r = 0, rows; r < s->m; r += rows) {
      rows = s->m - r >= ROWS ? ROWS : s->m - r >= ROWS / 2 ? ROWS / 2 : 1;
      const float* x = s->x + r * s->k;
      float* y = s->y + r * s->n + f;
      if (columns == 1) rows = 1, tile(1, 1, s->n, s->k, x, w, y);
      else if (rows == 1) tile(1, COLUMNS, s->n, s->k, x, w, y);
      else if (rows == ROWS / 2) tile(ROWS / 2, COLUMNS, s->n, s->k, x, w, y);
      else tile(ROWS, COLUMNS, s->n, s->k, x, w, y);
    }
  }
  return 0;
}

XLA_FFI_Error* jaxllm_few_rows(XLA_FFI_CallFrame* call) {
  if (asks_version(call)) return 0;
  XLA_FFI_Buffer *x = call->args.args[0], *w = call->args.args[1], *y = call->rets.rets[0];
  Work* s = calloc(1, sizeof *s);
  if (!s) return error_of(call, "there is no memory for a product of a few rows");
  s->m = x->dims[0], s->k = x->dims[1], s->n = w->dims[0];
  s->x = x->data, s->w = w->data, s->y = y->data;
  int64_t most = s->n * s->k / SMALLEST_PART + 1, threads = threads_of(call);
  share(call, &s->tasks, compute, threads < most ? threads : most);
  return 0;
}
