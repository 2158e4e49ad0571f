/* fuzz_image.c - any bytes as a picture: refused with a message, or pixels of the promised size.
 *
 * Changed bytes rarely get past a PNG's checksums, nor past the first bytes of either format. So each input is tried
 * three times: as it is, as a PNG whose signature and checksums are put right, and as a JPEG whose first bytes are put
 * right.
 */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "host/image.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void must(int holds)
{
    if (!holds) abort();
}

static void check(const uint8_t *data, size_t size)
{
    ts_image im, small;
    ts_status st = ts_image_decode(&im, "input", data, size);
    if (st != TS_OK) {
        must(st == TS_E_DATA || st == TS_E_NOMEM);
        must(!im.rgb && strncmp(ts_error(), "input: ", 7) == 0);
        return;
    }
    must(im.width >= 1 && im.height >= 1 && (int64_t)im.width * im.height <= 178956970);
    size_t bytes = (size_t)im.width * (size_t)im.height * 3;
    uint8_t *copy = malloc(bytes); /* reads all of it, so that a sanitizer finds a buffer that is too small */
    must(copy != NULL);
    memcpy(copy, im.rgb, bytes);
    free(copy);
    for (int how = 0; how < 2; how++) {
        st = ts_image_preprocess(&small, &im, how ? TS_PREPROCESS_ADM : TS_PREPROCESS_VAR, 16, NULL, NULL, "input");
        must(st == TS_E_DATA || (st == TS_OK && small.width == 16 && small.height == 16));
        ts_image_free(&small);
    }
    ts_image_free(&im);
}

static uint32_t crc32_of(const uint8_t *p, size_t n)
{
    uint32_t crc = ~0u;
    for (size_t i = 0; i < n; i++) {
        crc ^= p[i];
        for (int k = 0; k < 8; k++) crc = crc >> 1 ^ (crc & 1 ? 0xEDB88320u : 0);
    }
    return ~crc;
}

/* The signature, and the checksum of every chunk. */
static void repair_png(uint8_t *p, size_t n)
{
    memcpy(p, "\x89PNG\r\n\x1a\n", 8);
    for (size_t at = 8; n - at >= 12;) {
        size_t length = (size_t)p[at] << 24 | (size_t)p[at + 1] << 16 | (size_t)p[at + 2] << 8 | p[at + 3];
        if (length > n - at - 12) return;
        uint32_t crc = crc32_of(p + at + 4, length + 4);
        at += 8 + length;
        for (int i = 0; i < 4; i++) p[at + (size_t)i] = (uint8_t)(crc >> (24 - 8 * i));
        at += 4;
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    check(data, size);
    if (size < 8) return 0;
    uint8_t *copy = malloc(size);
    must(copy != NULL);
    memcpy(copy, data, size);
    repair_png(copy, size);
    check(copy, size);
    memcpy(copy, data, size);
    memcpy(copy, "\xff\xd8\xff", 3);
    check(copy, size);
    free(copy);
    return 0;
}
