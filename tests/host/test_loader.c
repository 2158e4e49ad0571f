/* test_loader.c - order, bounds, errors, early stops and races of the loader; the keyed permutation.
 *
 * Oracle     the same pictures read one after another with ts_dataset_read and ts_image_preprocess.
 */
#include <errno.h>
#include <pthread.h>
#include <time.h>

#include "host/dataset.h"
#include "host/file.h"
#include "tests/host/pillow.h"

enum { N = 23, BROKEN = 7, SIZE = 16 };

/* N pictures of different sizes in a flat folder; number BROKEN is text. */
static ts_dataset *make_set(char **root)
{
    *root = t_temp("loader");
    T_OK(ts_dir_make(*root));
    for (int i = 0; i < N; i++) {
        char path[600];
        snprintf(path, sizeof path, "%s/%02d.png", *root, i);
        ts_image im = t_picture(20 + i, 45 - i, (uint64_t)i);
        uint8_t *bytes;
        size_t n;
        T_OK(ts_image_encode_png(&im, NULL, 0, &bytes, &n));
        FILE *f = fopen(path, "wb");
        T_TRUE(f != NULL);
        fwrite(bytes, 1, i == BROKEN ? 5 : n, f);
        fclose(f);
        free(bytes);
    }
    ts_dataset *d;
    T_OK(ts_dataset_open(&d, (const char *const[]){ *root }, 1));
    T_EQI(ts_dataset_count(d), N);
    return d;
}

static void remove_set(ts_dataset *d, const char *root)
{
    ts_dataset_close(d);
    T_OK(ts_dir_remove(root));
}

static void pause_ms(int ms)
{
    struct timespec t = { ms / 1000, ms % 1000 * 1000000L };
    while (nanosleep(&t, &t) != 0 && errno == EINTR) {
    }
}

/* The picture at a position as it should be; equal or fails. */
static void check_loaded(const ts_dataset *d, const ts_loaded *got, const float *crop)
{
    ts_image whole, want;
    if (got->picture == BROKEN) {
        T_EQI(got->status, TS_E_DATA);
        T_TRUE(strstr(got->error, "07.png") && got->image.rgb == NULL);
        return;
    }
    ck_assert_msg(got->status == TS_OK, "%s", got->error);
    T_OK(ts_dataset_read(d, got->picture, &whole));
    T_OK(ts_image_preprocess(&want, &whole, TS_PREPROCESS_VAR, SIZE, crop, NULL, "want"));
    T_EQI(got->label, -1);
    T_TRUE(got->image.width == SIZE && got->image.height == SIZE);
    ck_assert_mem_eq(got->image.rgb, want.rgb, SIZE * SIZE * 3);
    ts_image_free(&whole);
    ts_image_free(&want);
}

/* The same where pictures are delivered as they are. */
static void check_whole(const ts_dataset *d, const ts_loaded *got)
{
    ts_image want;
    if (got->picture == BROKEN) {
        check_loaded(d, got, NULL);
        return;
    }
    T_OK(ts_dataset_read(d, got->picture, &want));
    T_TRUE(got->image.width == want.width && got->image.height == want.height);
    ck_assert_mem_eq(got->image.rgb, want.rgb, (size_t)want.width * (size_t)want.height * 3);
    ts_image_free(&want);
}

T_TEST(in_turn)
{
    static const int THREADS[] = { 1, 2, 8 }, AHEAD[] = { 1, 3, 40 };
    (void)be, (void)s;
    char *root;
    ts_dataset *d = make_set(&root);
    for (int i = 0; i < 9; i++) {
        ts_loader_options o = { TS_PREPROCESS_VAR, i == 5 ? 0 : SIZE, THREADS[i % 3], AHEAD[i / 3], i, NULL, NULL };
        ts_loader *l;
        ts_loaded got;
        int more;
        T_OK(ts_loader_new(&l, d, &o));
        for (int64_t n = i; n < N; n++) {
            T_OK(ts_loader_next(l, &got, &more));
            T_EQI(more, 1);
            T_EQI(got.position, n);
            T_EQI(got.picture, n);
            if (o.size) check_loaded(d, &got, NULL);
            else check_whole(d, &got);
            ts_image_free(&got.image);
        }
        for (int again = 0; again < 2; again++) { /* the end stays the end */
            T_OK(ts_loader_next(l, &got, &more));
            T_TRUE(more == 0 && got.image.rgb == NULL);
        }
        ts_loader_free(l);
    }
    remove_set(d, root);
}

enum { LENGTH = 300 };

/* Pictures again and again in another order, with crops; the context counts the calls. */
typedef struct {
    pthread_mutex_t lock;
    int64_t furthest;
} order_context;

static int64_t shuffled(void *context, int64_t n, float crop[2], int *has_crop)
{
    order_context *c = context;
    pthread_mutex_lock(&c->lock);
    if (n > c->furthest) c->furthest = n;
    pthread_mutex_unlock(&c->lock);
    if (n >= LENGTH) return -1;
    *has_crop = n % 3 != 0;
    crop[0] = (float)(n % 5) / 5;
    crop[1] = (float)(n % 7) / 7;
    return ts_permute((uint64_t)(n / N), n % N, N);
}

T_TEST(own_order)
{
    (void)be, (void)s;
    char *root;
    ts_dataset *d = make_set(&root);
    order_context c = { PTHREAD_MUTEX_INITIALIZER, -1 };
    ts_loader_options o = { TS_PREPROCESS_VAR, SIZE, 4, 6, 100, shuffled, &c };
    ts_loader *l;
    T_OK(ts_loader_new(&l, d, &o));
    for (int64_t n = 100;; n++) {
        ts_loaded got;
        float crop[2];
        int more, has_crop = 0;
        T_OK(ts_loader_next(l, &got, &more));
        T_EQI(more, n < LENGTH);
        if (!more) break;
        order_context ignored = { PTHREAD_MUTEX_INITIALIZER, -1 };
        T_EQI(got.picture, shuffled(&ignored, n, crop, &has_crop));
        T_EQI(got.position, n);
        check_loaded(d, &got, has_crop ? crop : NULL);
        ts_image_free(&got.image);
    }
    ts_loader_free(l);
    remove_set(d, root);
}

/* With nothing taken, no more than `ahead` positions are begun; each one taken begins one more. */
T_TEST(bounded)
{
    (void)be, (void)s;
    char *root;
    ts_dataset *d = make_set(&root);
    order_context c = { PTHREAD_MUTEX_INITIALIZER, -1 };
    ts_loader_options o = { TS_PREPROCESS_VAR, SIZE, 4, 5, 0, shuffled, &c };
    ts_loader *l;
    T_OK(ts_loader_new(&l, d, &o));
    for (int taken = 0; taken < 4; taken++) {
        /* until it is there, then a while longer, so that too many would show */
        for (int wait = 0; wait < 30000; wait++) {
            pthread_mutex_lock(&c.lock);
            int64_t furthest = c.furthest;
            pthread_mutex_unlock(&c.lock);
            if (furthest >= taken + 4) break;
            pause_ms(1);
        }
        pause_ms(30);
        pthread_mutex_lock(&c.lock);
        T_EQI(c.furthest, taken + 4);
        pthread_mutex_unlock(&c.lock);
        ts_loaded got;
        int more;
        T_OK(ts_loader_next(l, &got, &more));
        ts_image_free(&got.image);
    }
    ts_loader_free(l);
    remove_set(d, root);
}

/* Stopped at any moment: all threads end and (under a sanitizer) nothing leaks. */
T_TEST(early_stop)
{
    (void)be, (void)s;
    char *root;
    ts_dataset *d = make_set(&root);
    for (int i = 0; i < 60; i++) {
        ts_loader_options o = { TS_PREPROCESS_VAR, SIZE, 1 + i % 5, 1 + i % 7, 0, NULL, NULL };
        ts_loader *l;
        T_OK(ts_loader_new(&l, d, &o));
        for (int n = 0; n < i % 9; n++) {
            ts_loaded got;
            int more;
            T_OK(ts_loader_next(l, &got, &more));
            ts_image_free(&got.image);
        }
        if (i % 4 == 0) pause_ms(2);
        ts_loader_free(l);
    }
    remove_set(d, root);
}

static int64_t beyond(void *context, int64_t n, float crop[2], int *has_crop)
{
    (void)context, (void)crop, (void)has_crop;
    return n == 0 ? N : -1;
}

T_TEST(refusals)
{
    (void)be, (void)s;
    char *root;
    ts_dataset *d = make_set(&root);
    const ts_loader_options good = { TS_PREPROCESS_VAR, SIZE, 1, 1, 0, NULL, NULL };
    ts_loader_options bad[4] = { good, good, good, good };
    ts_loader *l;
    bad[0].threads = 0, bad[1].ahead = 0, bad[2].first = -1, bad[3].size = -1;
    for (int i = 0; i < 4; i++) T_STATUS(TS_E_ARG, ts_loader_new(&l, d, &bad[i]));
    ts_loader_free(NULL);
    ts_loader_options o = good;
    o.order = beyond;
    T_OK(ts_loader_new(&l, d, &o));
    ts_loaded got;
    int more;
    T_OK(ts_loader_next(l, &got, &more));
    T_TRUE(more == 1 && got.status == TS_E_ARG && got.error[0]);
    T_OK(ts_loader_next(l, &got, &more));
    T_EQI(more, 0);
    ts_loader_free(l);
    remove_set(d, root);
}

/* Every size up to 300 and some larger: each number exactly once. */
T_TEST(permutation)
{
    (void)be, (void)s;
    static const int64_t LARGE[] = { 1023, 1024, 1025, 4096, 65537 };
    uint8_t *seen = t_alloc(65537);
    for (int k = 1; k <= 305; k++) {
        int64_t n = k <= 300 ? k : LARGE[k - 301];
        memset(seen, 0, (size_t)n);
        for (int64_t i = 0; i < n; i++) {
            int64_t j = ts_permute((uint64_t)k * 77, i, n);
            T_TRUE(j >= 0 && j < n && !seen[j]);
            seen[j] = 1;
        }
    }
    for (int64_t i = 0; i < 1000; i++) { /* as far as it can go */
        int64_t n = (int64_t)1 << 61, j = ts_permute(5, n - 1 - i, n);
        T_TRUE(j >= 0 && j < n);
    }
}

/* Keys give different orders, and every number is as likely everywhere: chi-square over 5,000 keys. */
T_TEST(permutation_is_even)
{
    (void)be, (void)s;
    enum { M = 11, KEYS = 5000 };
    int count[M][M] = { 0 }, together = 0;
    for (uint64_t key = 0; key < KEYS; key++)
        for (int i = 0; i < M; i++) {
            count[i][ts_permute(key, i, M)]++;
            together += i + 1 < M && ts_permute(key, i + 1, M) == (ts_permute(key, i, M) + 1) % M;
        }
    double expected = (double)KEYS / M;
    for (int i = 0; i < M; i++) {
        double chi = 0;
        for (int j = 0; j < M; j++) chi += (count[i][j] - expected) * (count[i][j] - expected) / expected;
        T_TRUE(chi < 35); /* 10 degrees of freedom: beyond 35 once in 8,000 */
    }
    /* neighbours follow one another in 1 of M-1 cases: 5,000 of 50,000, standard deviation about 70 */
    T_NEAR(together, KEYS, 400);
}

int main(void)
{
    Suite *u = t_suite("loader");
    T_ADD1(u, in_turn);
    T_ADD1(u, own_order);
    T_ADD1(u, bounded);
    T_ADD1(u, early_stop);
    T_ADD1(u, refusals);
    T_ADD1(u, permutation);
    T_ADD1(u, permutation_is_even);
    return t_run(u);
}
