/* Counts and sums over blocks of a tensor, for kernel.py, which has the same in numpy. Little-endian; C99 with the
 * vectors of GCC and Clang. On x86-64 with glibc the loader takes the form for AVX2 where it can; without FMA: the same
 * results. */
#include <math.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#if defined(__x86_64__) && defined(__GLIBC__)
#define WIDE __attribute__((target_clones("avx2", "default")))
#else
#define WIDE
#endif

enum { CODES = 65536, CHUNK = 1024, LANES = 4, STEP = 2 * LANES };
enum kind { FLOAT32, FLOAT64, INT32, INT64, BFLOAT16, TABLE16, TABLE8 };
typedef double vector __attribute__((vector_size(32)));
typedef int64_t mask __attribute__((vector_size(32)));
#define PICK(where, a, b) ((vector)(((where) & (mask)(a)) | (~(where) & (mask)(b))))
#define ABS(a) ((vector)((mask)(a) & INT64_MAX))
#define SUM(v) (((v)[0][0] + (v)[0][1]) + ((v)[0][2] + (v)[0][3]) + ((v)[1][0] + (v)[1][1]) + ((v)[1][2] + (v)[1][3]))

struct moments { /* of finite values; m2: squared distances from the mean; low: what sum lost by rounding */
    int64_t count, zeros, nan, infinite;
    double sum, low, m2, square, min, max;
};

struct differences { /* of pairs that are both finite; the others are odd, and changed unless both are the same */
    int64_t count, changed, odd;
    double distance, old_square, new_square, product, largest;
};

/* Two tables, so that equal codes next to each other do not wait for one counter. */
void rlhfd_count16(const unsigned char *data, size_t count, uint32_t *tables) {
    size_t i = 0;
    for (; i + 4 <= count; i += 4) {
        uint64_t word;
        memcpy(&word, data + 2 * i, 8);
        tables[word & 0xffff]++;
        tables[CODES + (word >> 16 & 0xffff)]++;
        tables[word >> 32 & 0xffff]++;
        tables[CODES + (word >> 48)]++;
    }
    for (; i < count; i++) tables[data[2 * i] | data[2 * i + 1] << 8]++;
}

void rlhfd_count8(const unsigned char *data, size_t count, uint32_t *tables) {
    for (size_t i = 0; i < count; i++) tables[(i & 1) * CODES + data[i]]++;
}

#define EACH(type, value) for (size_t i = 0; i < count; i++) { type x; memcpy(&x, data + i * sizeof x, sizeof x); out[i] = value; }
WIDE static void load(int kind, const unsigned char *data, size_t count, const float *table, double *out) {
    if (kind == FLOAT32) EACH(float, x)
    else if (kind == FLOAT64) EACH(double, x)
    else if (kind == INT32) EACH(int32_t, x)
    else if (kind == INT64) EACH(int64_t, (double)x)
    else if (kind == TABLE16) EACH(uint16_t, table[x])
    else if (kind == TABLE8) EACH(uint8_t, table[x])
    else {
        uint32_t bits[CHUNK];
        float floats[CHUNK];
        for (size_t i = 0; i < count; i++) bits[i] = (uint32_t)(data[2 * i] | data[2 * i + 1] << 8) << 16;
        memcpy(floats, bits, count * 4);
        for (size_t i = 0; i < count; i++) out[i] = floats[i];
    }
}

/* The upper half of the float32 next to value on the side of zero; what is beyond float32 goes to its last ones. */
static uint32_t code(double value) {
    uint64_t bits;
    uint32_t small;
    memcpy(&bits, &value, 8);
    int64_t magnitude = (int64_t)(bits >> 45 & 0x3ffff) - ((1023 - 127) << 7);
    if (magnitude < 0x80) { /* subnormal in float32 */
        float nearest = (float)value;
        memcpy(&small, &nearest, 4);
        return small >> 16;
    }
    return (uint32_t)(bits >> 63 << 15) | (uint32_t)(magnitude > 0x7f7f ? 0x7f7f : magnitude);
}

/* Adds finite values to all; 0, and nothing added, if the sum is not finite, unless even_so. */
WIDE static int add(const double *values, size_t count, struct moments *all, int even_so) {
    size_t whole = count - count % STEP;
    vector x, sums[2] = {{0}}, squares[2] = {{0}}, low[2] = {{0}}, high[2] = {{0}};
    mask zeros[2] = {{0}};
    double before = (double)all->count, here = (double)count, min = values[0], max = values[0];
    for (int j = 0; j < 2; j++) low[j] += min, high[j] += max;
    for (size_t i = 0; i < whole; i += STEP)
        for (int j = 0; j < 2; j++) {
            memcpy(&x, values + i + j * LANES, sizeof x);
            sums[j] += x;
            low[j] = PICK(x < low[j], x, low[j]);
            high[j] = PICK(x > high[j], x, high[j]);
            zeros[j] -= x == 0;
        }
    double sum = SUM(sums);
    int64_t zero = SUM(zeros);
    for (int j = 0; j < STEP; j++) min = fmin(min, low[j / LANES][j % LANES]), max = fmax(max, high[j / LANES][j % LANES]);
    for (size_t i = whole; i < count; i++)
        sum += values[i], zero += values[i] == 0, min = fmin(min, values[i]), max = fmax(max, values[i]);
    if (!isfinite(sum) && !even_so) return 0;
    double mean = sum / here, apart = before > 0 ? mean - (all->sum + all->low) / before : 0, total = all->sum + sum;
    for (size_t i = 0; i < whole; i += STEP)
        for (int j = 0; j < 2; j++) {
            memcpy(&x, values + i + j * LANES, sizeof x);
            squares[j] += (x - mean) * (x - mean);
        }
    double m2 = SUM(squares);
    for (size_t i = whole; i < count; i++) m2 += (values[i] - mean) * (values[i] - mean);
    all->low += fabs(all->sum) >= fabs(sum) ? all->sum - total + sum : sum - total + all->sum;
    all->sum = total;
    all->m2 += m2 + apart * apart * (before * here / (before + here));
    all->square += m2 + sum * mean;
    all->min = fmin(all->min, min);
    all->max = fmax(all->max, max);
    all->zeros += zero;
    all->count += (int64_t)count;
    return 1;
}

/* kind is one of FLOAT32 to INT64; the tables count code(value). */
void rlhfd_moments(int kind, const unsigned char *data, size_t count, uint32_t *tables, struct moments *all) {
    static const size_t width[] = {4, 8, 4, 8};
    for (double values[CHUNK]; count > 0;) {
        size_t size = count < CHUNK ? count : CHUNK, kept = 0;
        load(kind, data, size, NULL, values);
        if (add(values, size, all, 0)) {
            kept = size;
        } else {
            for (size_t i = 0; i < size; i++)
                if (isfinite(values[i])) values[kept++] = values[i];
                else if (isnan(values[i])) all->nan++;
                else all->infinite++;
            if (kept) add(values, kept, all, 1);
        }
        size_t done = 0;
        for (uint64_t word; kind == FLOAT32 && kept == size && done + 2 <= size; done += 2) {
            memcpy(&word, data + 4 * done, 8);
            tables[word >> 16 & 0xffff]++;
            tables[CODES + (word >> 48)]++;
        }
        for (; done < kept; done++) tables[code(values[done])]++;
        data += size * width[kind], count -= size;
    }
}

/* Adds pairs of finite values to all; apart by more than relative * the larger + absolute they are changed. */
WIDE static int compare(double *old, double *new, size_t count, double relative, double absolute,
                        struct differences *all, int even_so) {
    vector a, b, distance[2] = {{0}}, olds[2] = {{0}}, news[2] = {{0}}, products[2] = {{0}}, largest[2] = {{0}};
    mask changed[2] = {{0}};
    for (size_t i = count; i % STEP; i++) old[i] = new[i] = 0;
    for (size_t i = 0; i < count; i += STEP)
        for (int j = 0; j < 2; j++) {
            memcpy(&a, old + i + j * LANES, sizeof a);
            memcpy(&b, new + i + j * LANES, sizeof b);
            vector apart = ABS(b - a), larger = PICK(ABS(a) > ABS(b), ABS(a), ABS(b));
            distance[j] += apart * apart;
            olds[j] += a * a;
            news[j] += b * b;
            products[j] += a * b;
            largest[j] = PICK(apart > largest[j], apart, largest[j]);
            changed[j] -= apart > relative * larger + absolute;
        }
    if (!isfinite(SUM(olds) + SUM(news)) && !even_so) return 0;
    all->distance += SUM(distance);
    all->old_square += SUM(olds);
    all->new_square += SUM(news);
    all->product += SUM(products);
    all->changed += SUM(changed);
    for (int j = 0; j < STEP; j++) all->largest = fmax(all->largest, largest[j / LANES][j % LANES]);
    all->count += (int64_t)count;
    return 1;
}

/* The tables hold the values of TABLE16 and TABLE8. */
void rlhfd_differences(int old_kind, const unsigned char *old, const float *old_table, int new_kind,
                       const unsigned char *new, const float *new_table, size_t count, double relative, double absolute,
                       struct differences *all) {
    static const size_t width[] = {4, 8, 4, 8, 2, 2, 1};
    for (double a[CHUNK], b[CHUNK]; count > 0;) {
        size_t size = count < CHUNK ? count : CHUNK, kept = 0;
        load(old_kind, old, size, old_table, a);
        load(new_kind, new, size, new_table, b);
        if (!compare(a, b, size, relative, absolute, all, 0)) {
            for (size_t i = 0; i < size; i++)
                if (isfinite(a[i]) && isfinite(b[i])) a[kept] = a[i], b[kept++] = b[i];
                else all->odd++, all->changed += a[i] != b[i] && !(isnan(a[i]) && isnan(b[i]));
            if (kept) compare(a, b, kept, relative, absolute, all, 1);
        }
        old += size * width[old_kind], new += size * width[new_kind], count -= size;
    }
}
