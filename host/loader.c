/* loader.c - pictures decoded by threads and delivered in order, in bounded memory. Contract: dataset.h.
 *
 * Position p uses slot (p - first) % ahead. Threads claim positions in order and wait while the claimed one is `ahead`
 * beyond the delivered one, so a slot is empty when its turn comes again.
 */
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "host/dataset.h"

typedef enum { EMPTY, READY, LAST } slot_state; /* LAST: the end, no picture */

typedef struct {
    slot_state state;
    ts_loaded loaded;
} slot;

struct ts_loader {
    const ts_dataset *d;
    ts_loader_options o;
    slot *slots;
    pthread_t *threads;
    int n_threads; /* running */
    pthread_mutex_t lock;
    pthread_cond_t delivered, ready; /* a slot became empty, or stop; a slot was filled */
    int64_t claimed, next;           /* positions to be claimed and to be delivered */
    int stop;                        /* set at the end too: nothing is claimed any more */
};

static ts_status load_image(const ts_loader *l, int64_t picture, const float *crop, ts_image *out)
{
    ts_image whole;
    if (l->o.size == 0) return ts_dataset_read(l->d, picture, out);
    TS_TRY(ts_dataset_read(l->d, picture, &whole));
    ts_status st = ts_image_preprocess(out, &whole, l->o.how, l->o.size, crop, NULL, ts_dataset_name(l->d, picture));
    ts_image_free(&whole);
    return st;
}

/* Fill *out for one position; LAST if there is none. */
static slot_state load(const ts_loader *l, int64_t position, ts_loaded *out)
{
    float crop[2] = { 0, 0 };
    int has_crop = 0;
    int64_t count = ts_dataset_count(l->d), picture = position < count ? position : -1;
    if (l->o.order) picture = l->o.order(l->o.context, position, crop, &has_crop);
    *out = (ts_loaded){ .position = position, .picture = picture, .label = -1 };
    if (picture < 0) return LAST;
    if (picture < count) out->label = ts_dataset_label(l->d, picture);
    out->status = load_image(l, picture, has_crop ? crop : NULL, &out->image);
    if (out->status != TS_OK) snprintf(out->error, sizeof out->error, "%s", ts_error());
    return READY;
}

static void *work(void *context)
{
    ts_loader *l = context;
    pthread_mutex_lock(&l->lock);
    for (;;) {
        while (!l->stop && l->claimed - l->next >= l->o.ahead) pthread_cond_wait(&l->delivered, &l->lock);
        if (l->stop) break;
        int64_t position = l->claimed++;
        pthread_mutex_unlock(&l->lock);
        ts_loaded loaded;
        slot_state state = load(l, position, &loaded);
        pthread_mutex_lock(&l->lock);
        l->slots[(position - l->o.first) % l->o.ahead] = (slot){ state, loaded };
        if (state == LAST) l->stop = 1;
        pthread_cond_signal(&l->ready);
    }
    pthread_mutex_unlock(&l->lock);
    return NULL;
}

ts_status ts_loader_new(ts_loader **out, const ts_dataset *d, const ts_loader_options *o)
{
    *out = NULL;
    if (o->threads < 1 || o->ahead < 1 || o->first < 0 || o->size < 0)
        return ts_fail(TS_E_ARG, "loader: threads %d, ahead %d, size %d, first %lld are not possible", o->threads,
                       o->ahead, o->size, (long long)o->first);
    ts_loader *l = calloc(1, sizeof *l);
    if (!l) return ts_fail(TS_E_NOMEM, "loader: out of memory");
    l->d = d;
    l->o = *o;
    l->claimed = l->next = o->first;
    l->slots = calloc((size_t)o->ahead, sizeof *l->slots);
    l->threads = calloc((size_t)o->threads, sizeof *l->threads);
    pthread_mutex_init(&l->lock, NULL);
    pthread_cond_init(&l->delivered, NULL);
    pthread_cond_init(&l->ready, NULL);
    ts_status st = l->slots && l->threads ? TS_OK : ts_fail(TS_E_NOMEM, "loader: out of memory");
    while (st == TS_OK && l->n_threads < o->threads) {
        int error = pthread_create(&l->threads[l->n_threads], NULL, work, l);
        if (error)
            st = ts_fail(TS_E_NOMEM, "loader: cannot start a thread: %s", strerror(error));
        else
            l->n_threads++;
    }
    if (st != TS_OK) {
        ts_loader_free(l);
        return st;
    }
    *out = l;
    return TS_OK;
}

ts_status ts_loader_next(ts_loader *l, ts_loaded *out, int *more)
{
    slot *s = &l->slots[(l->next - l->o.first) % l->o.ahead];
    pthread_mutex_lock(&l->lock);
    while (s->state == EMPTY) pthread_cond_wait(&l->ready, &l->lock);
    *more = s->state == READY;
    *out = s->loaded;
    if (*more) {
        s->state = EMPTY;
        l->next++;
        pthread_cond_signal(&l->delivered);
    }
    pthread_mutex_unlock(&l->lock);
    return TS_OK;
}

void ts_loader_free(ts_loader *l)
{
    if (!l) return;
    pthread_mutex_lock(&l->lock);
    l->stop = 1;
    pthread_cond_broadcast(&l->delivered);
    pthread_mutex_unlock(&l->lock);
    for (int i = 0; i < l->n_threads; i++) pthread_join(l->threads[i], NULL);
    for (int i = 0; l->slots && i < l->o.ahead; i++)
        if (l->slots[i].state == READY) ts_image_free(&l->slots[i].loaded.image);
    pthread_cond_destroy(&l->delivered);
    pthread_cond_destroy(&l->ready);
    pthread_mutex_destroy(&l->lock);
    free(l->slots);
    free(l->threads);
    free(l);
}
