/* fuzz_dataset.c - any bytes as a tar file: refused with a message, or samples that can be read or are refused in turn.
 *
 * Each input is tried as it is, and with the checksum of every 512-byte block put right, so that changed headers are
 * read.
 */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "host/dataset.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void must(int holds)
{
    if (!holds) abort();
}

static void check(const uint8_t *data, size_t size)
{
    char path[64];
    const char *input = path;
    ts_dataset *d;
    int fd = memfd_create("input", 0);
    must(fd >= 0 && write(fd, data, size) == (ssize_t)size);
    snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
    ts_status st = ts_dataset_open(&d, &input, 1);
    if (st == TS_OK) {
        must(ts_dataset_count(d) >= 1);
        for (int64_t i = 0; i < ts_dataset_count(d); i++) {
            ts_image im;
            must(strncmp(ts_dataset_name(d, i), path, strlen(path)) == 0);
            must(ts_dataset_label(d, i) >= -1 && ts_dataset_label(d, i) < ts_dataset_classes(d));
            if (ts_dataset_read(d, i, &im) != TS_OK) must(strncmp(ts_error(), path, strlen(path)) == 0);
            ts_image_free(&im);
        }
    } else {
        must(st == TS_E_DATA && !d && strncmp(ts_error(), path, strlen(path)) == 0);
    }
    ts_dataset_close(d);
    close(fd);
}

/* Make every block a valid header as far as the checksum goes; the content of members does not mind much. */
static void repair(uint8_t *p, size_t n)
{
    for (size_t at = 0; at + 512 <= n; at += 512) {
        if (memcmp(p + at + 257, "ustar", 5) != 0) continue;
        unsigned sum = 0;
        char text[8];
        memset(p + at + 148, ' ', 8);
        for (int i = 0; i < 512; i++) sum += p[at + (size_t)i];
        snprintf(text, sizeof text, "%06o", sum);
        memcpy(p + at + 148, text, 8);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    check(data, size);
    uint8_t *copy = malloc(size + 1);
    must(copy != NULL);
    if (size > 0) memcpy(copy, data, size);
    repair(copy, size);
    check(copy, size);
    free(copy);
    return 0;
}
