/* dataset.c - what is in an image set, and one picture of it. Contract: dataset.h; tar files: archive.c.
 *
 * Labels are given twice: while listing, a label is the place of a class name in the order of appearance; at the end
 * the names are sorted, equal ones become one, and the labels follow.
 */
#include "host/dataset.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/stat.h>
#include <unistd.h>

#include "host/archive.h"
#include "host/file.h"

enum { MAX_DEPTH = 40, MAX_LABEL = 999999 };

typedef struct {
    char *name; /* the path of a file, or TAR:KEY */
    int32_t label;
    int tar; /* index of the tar file, -1 for a file of its own */
    int64_t offset, size;
} picture;

typedef struct {
    char **at;
    int64_t n, room;
} strings;

struct ts_dataset {
    picture *pictures;
    int64_t n, room;
    strings classes;
    int *tars; /* open files */
    int n_tars;
    int32_t max_number; /* largest label of a .cls member, -1 if there is none */
};

static ts_status no_memory(void)
{
    return ts_fail(TS_E_NOMEM, "listing pictures: out of memory");
}

/* Make room for one more element; 0 when memory is out. */
static int grow(void *array, int64_t n, int64_t *room, size_t size)
{
    if (n < *room) return 1;
    int64_t want = *room ? *room * 2 : 64;
    void *old, *grown;
    memcpy(&old, array, sizeof old); /* a pointer to any type of pointer */
    if (!(grown = realloc(old, (size_t)want * size))) return 0;
    memcpy(array, &grown, sizeof grown);
    *room = want;
    return 1;
}

/* Both take over the string, also when they fail. */
static ts_status strings_add(strings *s, char *text)
{
    if (!text || !grow(&s->at, s->n, &s->room, sizeof *s->at)) {
        free(text);
        return no_memory();
    }
    s->at[s->n++] = text;
    return TS_OK;
}

static ts_status picture_add(ts_dataset *d, picture p)
{
    if (!p.name || !grow(&d->pictures, d->n, &d->room, sizeof *d->pictures)) {
        free(p.name);
        return no_memory();
    }
    d->pictures[d->n++] = p;
    return TS_OK;
}

static void strings_free(strings *s)
{
    for (int64_t i = 0; i < s->n; i++) free(s->at[i]);
    free(s->at);
    *s = (strings){ 0 };
}

static int by_bytes(const void *a, const void *b)
{
    return strcmp(*(char *const *)a, *(char *const *)b);
}

static void strings_sort(strings *s)
{
    if (s->n) qsort(s->at, (size_t)s->n, sizeof *s->at, by_bytes);
}

static int is_picture_type(const char *type)
{
    return strcasecmp(type, "png") == 0 || strcasecmp(type, "jpg") == 0 || strcasecmp(type, "jpeg") == 0;
}

static int is_picture_name(const char *name)
{
    const char *dot = strrchr(name, '.');
    return dot && is_picture_type(dot + 1);
}

/* Paths of the sub-folders and pictures of a folder, unsorted; hidden ones are left out, links are followed. */
static ts_status list_folder(const char *path, strings *folders, strings *files)
{
    DIR *dir = opendir(path);
    if (!dir) return ts_fail(TS_E_NOINPUT, "%s: %s", path, strerror(errno));
    ts_status st = TS_OK;
    for (struct dirent *e; st == TS_OK && (e = readdir(dir));) {
        if (e->d_name[0] == '.') continue;
        char *name = ts_format("%s/%s", path, e->d_name);
        if (!name)
            st = no_memory();
        else if (ts_path_is_dir(name))
            st = strings_add(folders, name);
        else if (is_picture_name(name))
            st = strings_add(files, name);
        else
            free(name);
    }
    closedir(dir);
    return st;
}

/* All pictures below a folder. */
static ts_status list_tree(const char *path, strings *files, int depth)
{
    if (depth > MAX_DEPTH)
        return ts_fail(TS_E_DATA, "%s: folders deeper than %d; does a link lead back up?", path, MAX_DEPTH);
    strings folders = { 0 };
    ts_status st = list_folder(path, &folders, files);
    for (int64_t i = 0; st == TS_OK && i < folders.n; i++) st = list_tree(folders.at[i], files, depth + 1);
    strings_free(&folders);
    return st;
}

/* Move the paths into the data set, in order. */
static ts_status add_files(ts_dataset *d, strings *files, int32_t label)
{
    ts_status st = TS_OK;
    strings_sort(files);
    for (int64_t i = 0; st == TS_OK && i < files->n; i++) {
        st = picture_add(d, (picture){ .name = files->at[i], .label = label, .tar = -1 });
        files->at[i] = NULL;
    }
    strings_free(files);
    return st;
}

/* Class folders, or pictures without a class where no sub-folder holds any. */
static ts_status add_folder(ts_dataset *d, const char *path)
{
    strings folders = { 0 }, files = { 0 }, own = { 0 };
    int64_t before = d->n, classes = d->classes.n;
    ts_status st = list_folder(path, &folders, &own);
    strings_sort(&folders);
    for (int64_t i = 0; st == TS_OK && i < folders.n; i++) {
        int32_t label = (int32_t)d->classes.n;
        st = strings_add(&d->classes, strdup(strrchr(folders.at[i], '/') + 1));
        if (st == TS_OK) st = list_tree(folders.at[i], &files, 0);
        if (st == TS_OK) st = add_files(d, &files, label);
        strings_free(&files);
    }
    if (st == TS_OK && d->n == before && own.n > 0) {
        while (d->classes.n > classes) free(d->classes.at[--d->classes.n]);
        st = add_files(d, &own, -1);
    }
    strings_free(&folders);
    strings_free(&own);
    return st;
}

/* The sample of a webdataset tar file that is being collected. */
typedef struct {
    ts_dataset *d;
    const char *path;
    char *key; /* path of the members up to the first dot of the base name */
    picture p; /* size 0: no picture yet */
} sample;

static ts_status finish_sample(sample *s)
{
    ts_status st = TS_OK;
    if (s->p.size > 0) {
        s->p.name = ts_format("%s:%s", s->path, s->key);
        st = picture_add(s->d, s->p);
    }
    free(s->key);
    s->key = NULL;
    s->p = (picture){ .label = -1, .tar = s->d->n_tars - 1 };
    return st;
}

static ts_status read_class(sample *s, const ts_tar_member *m)
{
    char text[16] = "", *end = text;
    long label = -1;
    if (m->size > 0 && m->size < (int64_t)sizeof text) {
        memcpy(text, m->bytes, (size_t)m->size);
        text[strcspn(text, "\r\n")] = '\0';
        label = strtol(text, &end, 10);
    }
    if (end == text || *end || label < 0 || label > MAX_LABEL)
        return ts_fail(TS_E_DATA, "%s: member %.200s holds no class number of 0 to %d", s->path, m->path, MAX_LABEL);
    s->p.label = (int32_t)label;
    if (s->d->max_number < label) s->d->max_number = (int32_t)label;
    return TS_OK;
}

static ts_status on_member(void *context, const ts_tar_member *m)
{
    sample *s = context;
    const char *slash = strrchr(m->path, '/'), *base = slash ? slash + 1 : m->path, *dot = strchr(base, '.');
    if (!dot || dot == base) return TS_OK; /* hidden, or without a type, as webdataset's own __notes__ */
    size_t key = (size_t)(dot - m->path);
    if (!s->key || strlen(s->key) != key || memcmp(s->key, m->path, key) != 0) {
        TS_TRY(finish_sample(s));
        if (!(s->key = strndup(m->path, key))) return no_memory();
    }
    if (strcasecmp(dot, ".cls") == 0) return read_class(s, m);
    if (!is_picture_type(dot + 1)) return TS_OK;
    if (s->p.size > 0) return ts_fail(TS_E_DATA, "%s: sample %.200s has two pictures", s->path, s->key);
    if (m->size == 0) return ts_fail(TS_E_DATA, "%s: member %.200s is empty", s->path, m->path);
    s->p.offset = m->offset;
    s->p.size = m->size;
    return TS_OK;
}

static ts_status add_tar(ts_dataset *d, const char *path)
{
    int *tars = realloc(d->tars, sizeof *tars * (size_t)(d->n_tars + 1));
    if (!tars) return no_memory();
    d->tars = tars;
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0) return ts_fail(TS_E_NOINPUT, "%s: %s", path, strerror(errno));
    d->tars[d->n_tars++] = fd;
    sample s = { .d = d, .path = path, .p = { .label = -1, .tar = d->n_tars - 1 } };
    ts_status st = ts_tar_walk(path, on_member, &s);
    if (st == TS_OK) st = finish_sample(&s);
    free(s.key);
    return st;
}

static ts_status add_input(ts_dataset *d, const char *path)
{
    struct stat info;
    if (stat(path, &info) != 0) return ts_fail(TS_E_NOINPUT, "%s: %s", path, strerror(errno));
    if (S_ISDIR(info.st_mode)) return add_folder(d, path);
    if (!S_ISREG(info.st_mode)) return ts_fail(TS_E_NOINPUT, "%s: neither a file nor a folder", path);
    if (ts_tar_is(path)) return add_tar(d, path);
    return picture_add(d, (picture){ .name = strdup(path), .label = -1, .tar = -1 });
}

/* Class folders: sort the names, unite equal ones, and let the labels follow. */
static ts_status settle_names(ts_dataset *d)
{
    strings *c = &d->classes, sorted = { 0 };
    int32_t *label = malloc(sizeof *label * (size_t)(c->n + 1));
    if (!label) return no_memory();
    ts_status st = TS_OK;
    for (int64_t i = 0; st == TS_OK && i < c->n; i++) st = strings_add(&sorted, strdup(c->at[i]));
    strings_sort(&sorted);
    int64_t n = 0;
    for (int64_t i = 0; i < sorted.n; i++) {
        if (n && strcmp(sorted.at[n - 1], sorted.at[i]) == 0)
            free(sorted.at[i]);
        else
            sorted.at[n++] = sorted.at[i];
    }
    sorted.n = n;
    for (int64_t i = 0; st == TS_OK && i < c->n; i++) {
        char **found = bsearch(&c->at[i], sorted.at, (size_t)n, sizeof *sorted.at, by_bytes);
        label[i] = (int32_t)(found - sorted.at);
    }
    for (int64_t i = 0; st == TS_OK && i < d->n; i++)
        if (d->pictures[i].label >= 0) d->pictures[i].label = label[d->pictures[i].label];
    free(label);
    strings_free(c);
    *c = sorted;
    return st;
}

/* Class numbers of tar files: the names are the numbers. */
static ts_status settle_numbers(ts_dataset *d)
{
    for (int32_t i = 0; i <= d->max_number; i++) TS_TRY(strings_add(&d->classes, ts_format("%d", i)));
    return TS_OK;
}

ts_status ts_dataset_open(ts_dataset **out, const char *const *inputs, int n_inputs)
{
    *out = NULL;
    ts_dataset *d = calloc(1, sizeof *d);
    if (!d) return no_memory();
    d->max_number = -1;
    ts_status st = n_inputs > 0 ? TS_OK : ts_fail(TS_E_ARG, "no input is named");
    for (int i = 0; st == TS_OK && i < n_inputs; i++) st = add_input(d, inputs[i]);
    if (st == TS_OK && d->n == 0)
        st = ts_fail(TS_E_DATA, "%s%s: no picture found (.png, .jpg, .jpeg)", inputs[0],
                     n_inputs > 1 ? " and others" : "");
    if (st == TS_OK && d->classes.n > 0 && d->max_number >= 0)
        st = ts_fail(TS_E_DATA, "%s and others: class folders and tar files with class numbers cannot be mixed",
                     inputs[0]);
    if (st == TS_OK) st = d->max_number >= 0 ? settle_numbers(d) : settle_names(d);
    if (st != TS_OK) {
        ts_dataset_close(d);
        return st;
    }
    *out = d;
    return TS_OK;
}

void ts_dataset_close(ts_dataset *d)
{
    if (!d) return;
    for (int64_t i = 0; i < d->n; i++) free(d->pictures[i].name);
    for (int i = 0; i < d->n_tars; i++) close(d->tars[i]);
    strings_free(&d->classes);
    free(d->pictures);
    free(d->tars);
    free(d);
}

int64_t ts_dataset_count(const ts_dataset *d)
{
    return d->n;
}

int ts_dataset_classes(const ts_dataset *d)
{
    return (int)d->classes.n;
}

const char *ts_dataset_class(const ts_dataset *d, int i)
{
    return d->classes.at[i];
}

const char *ts_dataset_name(const ts_dataset *d, int64_t i)
{
    return d->pictures[i].name;
}

int32_t ts_dataset_label(const ts_dataset *d, int64_t i)
{
    return d->pictures[i].label;
}

/* A member of a tar file, malloc'ed. */
static ts_status read_member(const ts_dataset *d, const picture *p, uint8_t **bytes)
{
    if (!(*bytes = malloc((size_t)p->size))) return ts_fail(TS_E_NOMEM, "%s: out of memory", p->name);
    for (int64_t done = 0; done < p->size;) {
        ssize_t n = pread(d->tars[p->tar], *bytes + done, (size_t)(p->size - done), p->offset + done);
        if (n < 0 && errno == EINTR) continue;
        if (n <= 0) {
            free(*bytes);
            return n < 0 ? ts_fail(TS_E_IO, "%s: %s", p->name, strerror(errno))
                         : ts_fail(TS_E_DATA, "%s: the tar file became shorter", p->name);
        }
        done += n;
    }
    return TS_OK;
}

ts_status ts_dataset_read(const ts_dataset *d, int64_t i, ts_image *im)
{
    *im = (ts_image){ 0 };
    if (i < 0 || i >= d->n) return ts_fail(TS_E_ARG, "picture %lld of a set of %lld", (long long)i, (long long)d->n);
    const picture *p = &d->pictures[i];
    if (p->tar < 0) return ts_image_read(im, p->name);
    uint8_t *bytes;
    TS_TRY(read_member(d, p, &bytes));
    ts_status st = ts_image_decode(im, p->name, bytes, (size_t)p->size);
    free(bytes);
    return st;
}
