/* page.c - the body of demo/index.html on standard output: the pictures of demo/ cut into tiles and inlined, with what
 * they cost.
 *
 *     demo-page MODELS PICTURES STEPS      STEPS: lines of milliseconds, what was done, its command line; tab between
 *
 * Reads what tools/demo/run.sh has made: demo/samples.png, demo/reconstruct.png, demo/tokens.
 */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "host/dataset.h"
#include "host/file.h"
#include "host/tokens.h"
#include "models/generator.h"
#include "models/metrics.h"

enum { ZOOM = 4, GAP = 2, MAX_STEPS_BYTES = 1 << 16 }; /* of the grids: --zoom 4, and what ts_image_grid is given */

typedef struct {
    ts_tokenizer *t;
    ts_generator *m;
    ts_dataset *data;
    ts_token_set *tokens;
    const char *models;
} page;

/* --- text --- */

static void put_escaped(const char *text)
{
    for (; *text; text++) {
        if (*text == '<')
            printf("&lt;");
        else if (*text == '>')
            printf("&gt;");
        else if (*text == '&')
            printf("&amp;");
        else if (*text == '"')
            printf("&quot;");
        else
            putchar(*text);
    }
}

/* "2-animals-nature" is the folder's name, and sorts; people read "animals nature". */
static void put_class(const char *name)
{
    size_t digits = strspn(name, "0123456789");
    if (digits > 0 && name[digits] == '-' && name[digits + 1]) name += digits + 1;
    for (; *name; name++) {
        char one[2] = { *name == '-' || *name == '_' ? ' ' : *name, '\0' };
        put_escaped(one);
    }
}

static void put_base64(const uint8_t *p, size_t n)
{
    static const char SYMBOL[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    for (size_t i = 0; i < n; i += 3) {
        uint32_t v = (uint32_t)p[i] << 16 | (i + 1 < n ? (uint32_t)p[i + 1] << 8 : 0) | (i + 2 < n ? p[i + 2] : 0);
        putchar(SYMBOL[v >> 18]);
        putchar(SYMBOL[v >> 12 & 63]);
        putchar(i + 1 < n ? SYMBOL[v >> 6 & 63] : '=');
        putchar(i + 2 < n ? SYMBOL[v & 63] : '=');
    }
}

/* --- tiles of a grid --- */

/* The picture in this row and column of a grid that was written with --zoom 4, at its own size. */
static ts_status cut(ts_image *out, const ts_image *grid, int size, int row, int column)
{
    int top = GAP + row * (size + GAP), left = GAP + column * (size + GAP);
    if ((top + size + GAP) * ZOOM > grid->height || (left + size + GAP) * ZOOM > grid->width)
        return ts_fail(TS_E_DATA, "a grid of %d x %d pixels has no row %d, column %d", grid->width, grid->height, row,
                       column);
    *out = (ts_image){ size, size, malloc((size_t)size * (size_t)size * 3) };
    if (!out->rgb) return ts_fail(TS_E_NOMEM, "out of host memory");
    for (int y = 0; y < size; y++)
        for (int x = 0; x < size; x++)
            memcpy(out->rgb + (y * size + x) * 3,
                   grid->rgb + ((int64_t)(top + y) * ZOOM * grid->width + (left + x) * ZOOM) * 3, 3);
    return TS_OK;
}

static ts_status put_image(const ts_image *im, const char *what)
{
    uint8_t *png;
    size_t n;
    TS_TRY(ts_image_encode_png(im, NULL, 0, &png, &n));
    printf("<img alt=\"");
    put_class(what);
    printf("\" src=\"data:image/png;base64,");
    put_base64(png, n);
    printf("\">");
    free(png);
    return TS_OK;
}

/* --- sections --- */

/* Bits of scales 0..k, if every code is equally likely. */
static double bits_up_to(const ts_tokenizer *t, int k)
{
    return t->q.p.start[k + 1] * log2(t->c.q.V);
}

static void put_facts(const page *p)
{
    int K = p->t->q.p.K, side = p->t->c.image_size;
    printf("<ul class=\"facts\">\n<li><b>%d</b>tokens a picture, in %d scales\n", p->t->q.p.T, K);
    printf("<li><b>%.0f bits</b>instead of %d for %d &times; %d pixels\n", bits_up_to(p->t, K - 1), side * side * 24,
           side, side);
    printf("<li><b>%d passes</b>make a new picture, one for each scale\n", K);
    printf("<li><b>%.2f M</b>parameters in the tokenizer\n", (double)ts_params_floats(p->t->params) / 1e6);
    printf("<li><b>%.2f M</b>parameters in the generator\n</ul>\n", (double)ts_params_floats(p->m->params) / 1e6);
}

static ts_status put_samples(const page *p)
{
    ts_image grid;
    TS_TRY(ts_image_read(&grid, "demo/samples.png"));
    int size = p->t->c.image_size, columns = (grid.width / ZOOM - GAP) / (size + GAP);
    printf("<h2>Generated</h2>\n<p>The generator drew these from a class name and a "
           "random seed.</p>\n"
           "<div class=\"card\" style=\"--columns: %d\">\n",
           columns);
    ts_status st = TS_OK;
    for (int c = 0; c < p->m->c.num_classes && st == TS_OK; c++) {
        const char *name = p->m->classes ? p->m->classes[c] : "class";
        printf("<div class=\"row\"><span>");
        put_class(name);
        printf("</span><div>\n");
        for (int i = 0; i < columns && st == TS_OK; i++) {
            ts_image tile = { 0, 0, NULL };
            st = cut(&tile, &grid, size, c, i);
            if (st == TS_OK) st = put_image(&tile, name);
            ts_image_free(&tile);
        }
        printf("</div></div>\n");
    }
    printf("</div>\n");
    ts_image_free(&grid);
    return st;
}

/* Input, then the sum after every scale, each with its PSNR. Column 1 of the grid, the result, is the last of them. */
static ts_status put_reconstruction(const page *p, const ts_image *grid, int row)
{
    int size = p->t->c.image_size, K = p->t->q.p.K;
    ts_image input = { 0, 0, NULL }, tile;
    const char *name = ts_dataset_class(p->data, ts_dataset_label(p->data, row));
    TS_TRY(cut(&input, grid, size, row, 0));
    printf("<div class=\"row\"><span>");
    put_class(name);
    printf("</span><div>\n<figure>");
    ts_status st = put_image(&input, name);
    printf("<figcaption>input</figcaption></figure>\n");
    for (int k = 0; k < K && st == TS_OK; k++) {
        st = cut(&tile, grid, size, row, 2 + k);
        if (st != TS_OK) break;
        printf("<figure>");
        st = put_image(&tile, name);
        printf("<figcaption>%.1f dB</figcaption></figure>\n",
               ts_psnr(ts_mse(input.rgb, tile.rgb, (int64_t)size * size * 3)));
        ts_image_free(&tile);
    }
    printf("</div></div>\n");
    ts_image_free(&input);
    return st;
}

static ts_status put_reconstructions(const page *p)
{
    ts_image grid;
    TS_TRY(ts_image_read(&grid, "demo/reconstruct.png"));
    int K = p->t->q.p.K, size = p->t->c.image_size;
    printf("<h2>Reconstructed, scale by scale</h2>\n<p>Pictures the models never saw. Each scale adds what the coarser "
           "ones have "
           "missed; the figure below a picture says how close it has come (PSNR).</p>\n"
           "<div class=\"card\" style=\"--columns: %d\">\n<div class=\"row head\"><span></span><div>\n"
           "<span><b>%d&times;%d</b>%d bits</span>\n",
           K + 1, size, size, size * size * 24);
    for (int k = 0; k < K; k++)
        printf("<span><b>%s%d&times;%d</b>%.0f bits</span>\n", k ? "+ " : "", p->t->q.p.py[k], p->t->q.p.px[k],
               bits_up_to(p->t, k));
    printf("</div></div>\n");
    ts_status st = TS_OK;
    for (int i = 0; i < ts_dataset_count(p->data) && st == TS_OK; i++) st = put_reconstruction(p, &grid, i);
    printf("</div>\n");
    ts_image_free(&grid);
    return st;
}

/* The numbers of one picture, and what they add up to. */
static ts_status put_tokens(const page *p)
{
    const ts_pyramid *q = &p->t->q.p;
    int32_t *tokens = malloc((size_t)q->T * sizeof *tokens), label;
    uint64_t picture = 0;
    ts_image grid = { 0, 0, NULL }, tile;
    int64_t last = ts_token_set_count(p->tokens) - 1;
    ts_status st =
        tokens ? ts_token_set_get(p->tokens, last, tokens, &label, &picture) : ts_fail(TS_E_NOMEM, "out of host memory");
    if (st == TS_OK) st = ts_image_read(&grid, "demo/reconstruct.png");
    printf("<h2>The tokens of one picture</h2>\n<p>This is all that is stored: %d numbers from 0 to %d.</p>\n"
           "<div class=\"card pyramid\">\n",
           q->T, p->t->c.q.V - 1);
    for (int k = 0; k < q->K && st == TS_OK; k++) {
        st = cut(&tile, &grid, p->t->c.image_size, (int)picture, 2 + k);
        if (st != TS_OK) break;
        printf("<figure>");
        st = put_image(&tile, "the sum so far");
        ts_image_free(&tile);
        printf("<table>");
        for (int i = 0; i < q->py[k]; i++) {
            printf("<tr>");
            for (int j = 0; j < q->px[k]; j++) printf("<td>%d", tokens[q->start[k] + i * q->px[k] + j]);
        }
        printf("</table><figcaption>%s%d&times;%d</figcaption></figure>\n", k ? "+ " : "", q->py[k], q->px[k]);
    }
    printf("</div>\n");
    ts_image_free(&grid);
    free(tokens);
    return st;
}

static ts_status put_steps(const char *path)
{
    void *text;
    size_t n;
    TS_TRY(ts_file_read(path, MAX_STEPS_BYTES, &text, &n));
    printf("<h2>How it was made</h2>\n<p>Run these yourself, from the root of the tree.</p>\n<div class=\"card\">\n");
    char *rest = text;
    for (char *line; (line = strsep(&rest, "\n")) && *line;) {
        const char *ms = strsep(&line, "\t"), *what = strsep(&line, "\t");
        if (!what || !line) break;
        printf("<div class=\"step\"><span>");
        put_escaped(what);
        printf("</span><i>%.2f s</i><pre>", atof(ms) / 1000);
        put_escaped(line);
        printf("</pre></div>\n");
    }
    printf("</div>\n");
    free(text);
    return TS_OK;
}

static double file_mb(const char *dir, const char *name)
{
    struct stat s;
    char *path = ts_format("%s/%s", dir, name);
    double mb = path && stat(path, &s) == 0 ? (double)s.st_size / 1e6 : 0;
    free(path);
    return mb;
}

static ts_status put_page(const page *p, const char *steps)
{
    put_facts(p);
    TS_TRY(put_samples(p));
    TS_TRY(put_reconstructions(p));
    TS_TRY(put_tokens(p));
    TS_TRY(put_steps(steps));
    printf(
        "<footer><p>The two models take %.1f MB and %.1f MB. The %lld pictures above were kept out of their training. "
        "tessera " TS_VERSION ".</p></footer>\n</main>\n</body>\n</html>\n",
        file_mb(p->models, "tokenizer.safetensors"), file_mb(p->models, "generator.safetensors"),
        (long long)ts_dataset_count(p->data));
    return fflush(stdout) == 0 && !ferror(stdout) ? TS_OK : ts_fail(TS_E_IO, "standard output: write failed");
}

int main(int argc, char **argv)
{
    if (argc != 4) return fprintf(stderr, "usage: demo-page MODELS PICTURES STEPS\n"), 2;
    page p = { .models = argv[1] };
    ts_device *d = NULL;
    char *tokenizer = ts_format("%s/tokenizer.safetensors", argv[1]),
         *generator = ts_format("%s/generator.safetensors", argv[1]);
    ts_status st =
        tokenizer && generator ? ts_device_open(&d, "cpu", 1, TS_MATH_F32) : ts_fail(TS_E_NOMEM, "out of host memory");
    if (st == TS_OK) st = ts_tokenizer_load(&p.t, d, tokenizer);
    if (st == TS_OK) st = ts_generator_load(&p.m, d, generator);
    if (st == TS_OK) st = ts_dataset_open(&p.data, (const char *const *)&argv[2], 1);
    if (st == TS_OK) st = ts_token_set_open(&p.tokens, "demo/tokens", 0);
    if (st == TS_OK) st = put_page(&p, argv[3]);
    if (st != TS_OK) fprintf(stderr, "demo-page: %s\n", ts_error());
    ts_token_set_close(p.tokens);
    ts_dataset_close(p.data);
    ts_generator_free(p.m);
    ts_tokenizer_free(p.t);
    ts_device_close(d);
    free(tokenizer);
    free(generator);
    return ts_exit_code(st);
}
