/* Products of a few rows with weights that lie by outputs: y = x w^T of x [m, k] and w [n, k]. Both are float32, or x is
   float32 and w bfloat16, with y in float32; or both are int8, with y in int32.

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
#define SMALLEST_PART (1 << 16) /* bytes of weights, below which a task of its own does not pay */

#define OF_VECTOR(size) __attribute__((vector_size(size), aligned(1), may_alias))
#define INLINE static inline __attribute__((always_inline))
typedef float Floats OF_VECTOR(BYTES);
typedef int32_t Integers OF_VECTOR(BYTES);
typedef uint32_t Bits OF_VECTOR(BYTES);
typedef int16_t Shorts OF_VECTOR(BYTES);
typedef uint16_t Halves OF_VECTOR(BYTES / 2);

typedef enum { FLOAT32, BFLOAT16, INT8 } Type; /* of the weights */

typedef struct {
  Tasks tasks;
  Type type;
  int64_t m, n, k;
  const char *x, *w;
  char* y;
  uint32_t added[]; /* [m], what ADDED adds to the sums of a row, with INT8 */
} Work;

/* Four products of bytes, added to each lane. */
#ifdef __AVX512VNNI__ /* the instruction wants unsigned weights: 128 is added to each, and its products taken off in the end */
#include <immintrin.h>
enum { ADDED = 128 };
INLINE Bits four_products(Bits sums, Bits x, Bits w) {
  return (Bits)_mm512_dpbusd_epi32((__m512i)sums, (__m512i)(w ^ 0x80808080), (__m512i)x);
}
#else
enum { ADDED = 0 };
INLINE Bits pairs(Shorts products) { return (Bits)(((Integers)products << 16 >> 16) + ((Integers)products >> 16)); }
INLINE Bits four_products(Bits sums, Bits x, Bits w) {
  Shorts even = ((Shorts)x << 8 >> 8) * ((Shorts)w << 8 >> 8), odd = ((Shorts)x >> 8) * ((Shorts)w >> 8);
  return sums + pairs(even) + pairs(odd);
}
#endif

INLINE Bits load(Type type, const char* w) {
  if (type != BFLOAT16) return *(const Bits*)w;
  return __builtin_convertvector(*(const Halves*)w, Bits) << 16; /* the first half of a float32 */
}

INLINE Bits multiply_add(Type type, Bits sums, Bits x, Bits w) {
  return type == INT8 ? four_products(sums, x, w) : (Bits)((Floats)sums + (Floats)x * (Floats)w);
}

INLINE float number(Type type, const char* w) {
  if (type == FLOAT32) return *(const float*)w;
  union { uint32_t bits; float number; } half = {(uint32_t)*(const uint16_t*)w << 16};
  return half.number;
}

/* A tile of y; `type`, `rows` and `columns` are constants wherever it is called. */
INLINE void tile(Type type, int rows, int columns, const Work* s, int64_t row, int64_t column) {
  const int64_t k = s->k, size_x = type == INT8 ? 1 : 4, size_w = type == INT8 ? 1 : type == BFLOAT16 ? 2 : 4;
  const char *x = s->x + row * k * size_x, *w = s->w + column * k * size_w;
  Bits sums[ROWS][COLUMNS] = {0};
  int64_t d = 0, step = BYTES / size_x;
  for (; d + step <= k; d += step) {
    Bits weights[COLUMNS];
    for (int j = 0; j < columns; j++) {
      weights[j] = load(type, w + (j * k + d) * size_w);
      __builtin_prefetch(w + ((j + columns) * k + d) * size_w);
    }
    for (int i = 0; i < rows; i++) {
      Bits a = *(const Bits*)(x + (i * k + d) * size_x);
      for (int j = 0; j < columns; j++) sums[i][j] = multiply_add(type, sums[i][j], a, weights[j]);
    }
  }
  for (int i = 0; i < rows; i++)
    for (int j = 0; j < columns; j++) {
      const char *a = x + i * k * size_x, *b = w + j * k * size_w;
      int64_t at = (row + i) * s->n + column + j;
      if (type == INT8) {
        uint32_t sum = -s->added[row + i]; /* modulo 2^32, as the vectors */
        for (int lane = 0; lane < LANES; lane++) sum += sums[i][j][lane];
        for (int64_t rest = d; rest < k; rest++) sum += ((const int8_t*)a)[rest] * ((const int8_t*)b)[rest];
        ((uint32_t*)s->y)[at] = sum;
      } else {
        float sum = 0;
        for (int lane = 0; lane < LANES; lane++) sum += ((Floats)sums[i][j])[lane];
        for (int64_t rest = d; rest < k; rest++) sum += ((const float*)a)[rest] * number(type, b + rest * size_w);
        ((float*)s->y)[at] = sum;
      }
    }
}

INLINE void outputs(Type type, const Work* s, int64_t first, int64_t end) {
  for (int64_t f = first, columns; f < end; f += columns) {
    columns = end - f >= COLUMNS ? COLUMNS : 1;
    for (int64_t r = 0, rows; r < s->m; r += rows) {
      rows = s->m - r >= ROWS ? ROWS : s->m - r >= ROWS / 2 ? ROWS / 2 : 1;
      if (columns == 1) rows = 1, tile(type, 1, 1, s, r, f);
      else if (rows == 1) tile(type, 1, COLUMNS, s, r, f);
      else if (rows == ROWS / 2) tile(type, ROWS / 2, COLUMNS, s, r, f);
      else tile(type, ROWS, COLUMNS, s, r, f);
    }
  }
}

static int compute(Tasks* tasks, int part) {
  Work* s = (Work*)tasks;
  int64_t tiles = (s->n + COLUMNS - 1) / COLUMNS;
  int64_t first = tiles * part / tasks->parts * COLUMNS, end = tiles * (part + 1) / tasks->parts * COLUMNS;
  if (end > s->n) end = s->n;
  if (s->type == INT8) outputs(INT8, s, first, end);
  else if (s->type == BFLOAT16) outputs(BFLOAT16, s, first, end);
  else outputs(FLOAT32, s, first, end);
  return 0;
}

XLA_FFI_Error* jaxllm_few_rows(XLA_FFI_CallFrame* call) {
  if (asks_version(call)) return 0;
  XLA_FFI_Buffer *x = call->args.args[0], *w = call->args.args[1], *y = call->rets.rets[0];
  Work* s = calloc(1, sizeof *s + x->dims[0] * sizeof *s->added);
  if (!s) return error_of(call, "there is no memory for a product of a few rows");
  s->m = x->dims[0], s->k = x->dims[1], s->n = w->dims[0];
  s->x = x->data, s->w = w->data, s->y = y->data;
  s->type = w->dtype == XLA_FFI_DataType_S8 ? INT8 : w->dtype == XLA_FFI_DataType_BF16 ? BFLOAT16 : FLOAT32;
  if (s->type == INT8)
    for (int64_t i = 0; i < s->m; i++)
      for (int64_t d = 0; d < s->k / BYTES * BYTES; d++) s->added[i] += ADDED * ((const int8_t*)s->x)[i * s->k + d];
  int64_t size = s->type == INT8 ? 1 : s->type == BFLOAT16 ? 2 : 4;
  int64_t most = s->n * s->k * size / SMALLEST_PART + 1, threads = threads_of(call);
  share(call, &s->tasks, compute, threads < most ? threads : most);
  return 0;
}
