/* test_dataset.c - what is found in folders, files and tar files, in which order and with which label.
 *
 * The tar files are written here, header by header, so that libarchive does not check itself.
 */
#include "host/dataset.h"

#include <fcntl.h>
#include <sys/stat.h>

#include "host/file.h"
#include "tests/host/pillow.h"

/* A picture of one colour, so that a read shows which one it was. */
static void make_picture(const char *path, int shade)
{
    uint8_t pixels[12];
    memset(pixels, shade, sizeof pixels);
    ts_image im = { 2, 2, pixels };
    uint8_t *bytes;
    size_t n;
    T_OK(ts_image_encode_png(&im, NULL, 0, &bytes, &n));
    FILE *f = fopen(path, "wb");
    ck_assert_msg(f != NULL, "%s", path);
    T_TRUE(fwrite(bytes, 1, n, f) == n);
    T_EQI(fclose(f), 0);
    free(bytes);
}

static char *under(const char *folder, const char *name)
{
    char *path = t_alloc(1024);
    snprintf(path, 1024, "%s/%s", folder, name);
    return path;
}

/* A new folder with these files; the n-th picture has shade n, other files hold text. A name with a final / is a
 * folder. */
static char *make_folder(const char *name, const char *const *files)
{
    char *root = t_temp(name);
    T_OK(ts_dir_make(root));
    for (int i = 0; files[i]; i++) {
        char *path = under(root, files[i]), *end = strrchr(path, '/');
        *end = '\0';
        T_OK(ts_dir_make(path));
        *end = '/';
        if (end[1]) make_picture(path, i);
    }
    return root;
}

static int shade(const ts_dataset *d, int64_t i)
{
    ts_image im;
    T_OK(ts_dataset_read(d, i, &im));
    int v = im.rgb[0];
    ts_image_free(&im);
    return v;
}

static ts_dataset *open_one(const char *input)
{
    ts_dataset *d;
    T_OK(ts_dataset_open(&d, &input, 1));
    return d;
}

static void expect_failure(ts_status want, const char *input, const char *says)
{
    ts_dataset *d = (void *)1;
    T_STATUS(want, ts_dataset_open(&d, &input, 1));
    ck_assert_msg(strstr(ts_error(), input) && strstr(ts_error(), says), "'%s' does not name %s and say '%s'",
                  ts_error(), input, says);
    T_TRUE(d == NULL);
}

T_TEST(image_folder)
{
    (void)be, (void)s;
    static const char *const FILES[] = {
        "b/2.png",       "b/10.png",   "B/x.JPG",   "a-b/p.jpeg", "a/sub/deep/q.png", "a/sub.png", "a/z.txt",
        "a/.hidden.png", ".git/x.png", "loose.png", "empty/",     "\xc3\xa4/u.PNG",   NULL
    };
    static const char *const CLASSES[] = { "B", "a", "a-b", "b", "empty", "\xc3\xa4" }; /* bytes, not letters */
    static const struct {
        const char *name;
        int label, shade;
    } WANT[] = { { "B/x.JPG", 0, 2 },  { "a/sub.png", 1, 5 }, { "a/sub/deep/q.png", 1, 4 }, { "a-b/p.jpeg", 2, 3 },
                 { "b/10.png", 3, 1 }, { "b/2.png", 3, 0 },   { "\xc3\xa4/u.PNG", 5, 11 } };
    char *root = make_folder("folder", FILES);
    T_EQI(symlink("a/sub.png", under(root, "link")), 0); /* a link to a picture is no class */
    ts_dataset *d = open_one(root);
    T_EQI(ts_dataset_classes(d), 6);
    for (int i = 0; i < 6; i++) ck_assert_str_eq(ts_dataset_class(d, i), CLASSES[i]);
    T_EQI(ts_dataset_count(d), 7);
    for (int i = 0; i < 7; i++) {
        ck_assert_str_eq(ts_dataset_name(d, i), under(root, WANT[i].name));
        T_EQI(ts_dataset_label(d, i), WANT[i].label);
        T_EQI(shade(d, i), WANT[i].shade);
    }
    ts_image im;
    T_STATUS(TS_E_ARG, ts_dataset_read(d, 7, &im));
    T_STATUS(TS_E_ARG, ts_dataset_read(d, -1, &im));
    T_EQI(unlink(under(root, "b/2.png")), 0); /* vanishes after listing */
    T_STATUS(TS_E_NOINPUT, ts_dataset_read(d, 5, &im));
    T_TRUE(strstr(ts_error(), "b/2.png") && im.rgb == NULL);
    ts_dataset_close(d);
    T_OK(ts_dir_remove(root));
}

T_TEST(several_inputs)
{
    (void)be, (void)s;
    static const char *const ONE[] = { "cat/1.png", "dog/1.png", NULL },
                             *const TWO[] = { "ant/1.png", "dog/2.png", NULL },
                             *const FLAT[] = { "z.png", "y.png", "bin/", "notes/a.txt", NULL }; /* no class of pictures in there */
    char *one = make_folder("one", ONE), *two = make_folder("two", TWO), *flat = make_folder("flat", FLAT);
    const char *inputs[] = { one, flat, two, under(flat, "z.png") };
    static const int LABEL[] = { 1, 2, -1, -1, 0, 2, -1 }, SHADE[] = { 0, 1, 1, 0, 0, 1, 0 };
    ts_dataset *d;
    T_OK(ts_dataset_open(&d, inputs, 4));
    T_EQI(ts_dataset_classes(d), 3);
    ck_assert_str_eq(ts_dataset_class(d, 0), "ant");
    ck_assert_str_eq(ts_dataset_class(d, 1), "cat");
    ck_assert_str_eq(ts_dataset_class(d, 2), "dog");
    T_EQI(ts_dataset_count(d), 7);
    for (int i = 0; i < 7; i++) {
        T_EQI(ts_dataset_label(d, i), LABEL[i]);
        T_EQI(shade(d, i), SHADE[i]);
    }
    ts_dataset_close(d);
    T_OK(ts_dir_remove(one));
    T_OK(ts_dir_remove(two));
    T_OK(ts_dir_remove(flat));
}

T_TEST(missing_inputs)
{
    (void)be, (void)s;
    static const char *const NOTHING[] = { "readme/", NULL };
    char *empty = t_temp("nothing");
    T_OK(ts_dir_make(empty));
    expect_failure(TS_E_NOINPUT, "/nonexistent/pictures", "No such file");
    expect_failure(TS_E_NOINPUT, "/dev/null", "neither a file nor a folder");
    expect_failure(TS_E_DATA, empty, "no picture");
    T_OK(ts_dir_remove(empty));
    empty = make_folder("nothing", NOTHING);
    expect_failure(TS_E_DATA, empty, "no picture");
    T_EQI(symlink("..", under(empty, "readme/up")), 0); /* never ends */
    expect_failure(TS_E_DATA, empty, "deeper");
    T_OK(ts_dir_remove(empty));
    ts_dataset *d;
    T_STATUS(TS_E_ARG, ts_dataset_open(&d, NULL, 0));
    ts_dataset_close(NULL);
}

/* Tar files, by hand. */

static void tar_member(FILE *f, const char *name, char type, const void *bytes, size_t n)
{
    char head[512] = { 0 };
    unsigned sum = 0;
    memcpy(head, name, strlen(name) < 100 ? strlen(name) : 100);
    memcpy(head + 100, "0000644", 8);
    snprintf(head + 124, 12, "%011zo", n);
    memcpy(head + 136, "00000000000", 12);
    memset(head + 148, ' ', 8);
    head[156] = type;
    memcpy(head + 257, "ustar\00000", 8);
    if (type == '2') memcpy(head + 157, "/etc/passwd", 11);
    for (int i = 0; i < 512; i++) sum += (unsigned char)head[i];
    snprintf(head + 148, 8, "%06o", sum);
    fwrite(head, 1, 512, f);
    if (n) fwrite(bytes, 1, n, f);
    while (n++ % 512) fputc(0, f);
}

static void tar_picture(FILE *f, const char *name, int shade_of)
{
    char *path = t_temp("member.png");
    void *bytes;
    size_t n;
    make_picture(path, shade_of);
    T_OK(ts_file_read(path, 1 << 20, &bytes, &n));
    tar_member(f, name, '0', bytes, n);
    free(bytes);
    unlink(path);
}

static void tar_text(FILE *f, const char *name, const char *text)
{
    tar_member(f, name, '0', text, strlen(text));
}

static FILE *tar_open(char **path)
{
    *path = t_temp("set.tar");
    FILE *f = fopen(*path, "wb");
    T_TRUE(f != NULL);
    return f;
}

static void tar_close(FILE *f)
{
    char zeros[1024] = { 0 };
    fwrite(zeros, 1, sizeof zeros, f);
    T_EQI(fclose(f), 0);
}

T_TEST(tar_file)
{
    (void)be, (void)s;
    char *path, longname[200], pax[300];
    FILE *f = tar_open(&path);
    tar_member(f, "train/", '5', NULL, 0);
    tar_picture(f, "train/0001.png", 10);
    tar_text(f, "train/0001.cls", "3\n");
    tar_text(f, "train/0001.json", "{}");
    tar_text(f, "train/0002.CLS", "0");
    tar_picture(f, "train/0002.PNG", 11);
    tar_picture(f, "train/0003.seg.png", 12); /* the type is seg.png */
    tar_text(f, "__meta__", "x");
    tar_picture(f, "train/.hidden.png", 12);
    tar_member(f, "evil.png", '2', NULL, 0); /* a symbolic link */
    tar_picture(f, "../../up/0004.jpg", 13); /* a PNG, and a name that is never a path */
    memset(longname, 'n', sizeof longname);
    strcpy(longname + 150, "/5.png");
    int length = snprintf(pax, sizeof pax, "166 path=%s\n", longname); /* the number counts the whole line */
    T_EQI(length, 166);
    tar_member(f, "pax", 'x', pax, (size_t)length);
    tar_picture(f, "short", 14);
    tar_close(f);
    ts_dataset *d = open_one(path);
    T_EQI(ts_dataset_count(d), 4);
    static const char *const KEYS[] = { "train/0001", "train/0002", "../../up/0004" };
    static const int LABEL[] = { 3, 0, -1, -1 }, SHADE[] = { 10, 11, 13, 14 };
    for (int i = 0; i < 4; i++) {
        if (i < 3) ck_assert_str_eq(ts_dataset_name(d, i) + strlen(path) + 1, KEYS[i]);
        T_TRUE(strncmp(ts_dataset_name(d, i), path, strlen(path)) == 0 && ts_dataset_name(d, i)[strlen(path)] == ':');
        T_EQI(ts_dataset_label(d, i), LABEL[i]);
        T_EQI(shade(d, i), SHADE[i]);
    }
    T_EQI(ts_dataset_classes(d), 4);
    ck_assert_str_eq(ts_dataset_class(d, 3), "3");
    T_EQI(truncate(path, 700), 0); /* gets shorter after listing */
    ts_image im;
    T_STATUS(TS_E_DATA, ts_dataset_read(d, 1, &im));
    T_TRUE(strstr(ts_error(), "train/0002") && strstr(ts_error(), "shorter"));
    ts_dataset_close(d);
    unlink(path);
}

T_TEST(broken_tar_files)
{
    (void)be, (void)s;
    static const char *const LABELS[] = { "cat", "-1", "", "1000000", "1000000000000000", "3 4" };
    char *path;
    FILE *f;
    for (int i = 0; i < 6; i++) {
        f = tar_open(&path);
        tar_picture(f, "a.png", 1);
        tar_text(f, "a.cls", LABELS[i]);
        tar_close(f);
        expect_failure(TS_E_DATA, path, "a.cls holds no class number");
    }
    f = tar_open(&path);
    tar_picture(f, "a.png", 1);
    tar_picture(f, "a.jpg", 2);
    tar_close(f);
    expect_failure(TS_E_DATA, path, "two pictures");
    f = tar_open(&path);
    tar_text(f, "a.png", "");
    tar_close(f);
    expect_failure(TS_E_DATA, path, "a.png is empty");
    f = tar_open(&path);
    tar_text(f, "a.txt", "no picture");
    tar_close(f);
    expect_failure(TS_E_DATA, path, "no picture");

    /* cut inside the header, inside the content; without end blocks it is whole */
    f = tar_open(&path);
    tar_picture(f, "a.png", 1);
    tar_picture(f, "b.png", 2);
    T_EQI(fclose(f), 0);
    ts_dataset_close(open_one(path));
    T_EQI(truncate(path, 1024 + 540), 0);
    expect_failure(TS_E_DATA, path, "b.png is cut off");
    T_EQI(truncate(path, 1024 + 300), 0);
    expect_failure(TS_E_DATA, path, "damaged tar file");
    T_EQI(truncate(path, 0), 0);
    expect_failure(TS_E_DATA, path, "empty");

    f = fopen(path, "wb");
    fwrite("\x1f\x8b\b\0\0\0\0\0", 1, 8, f);
    fclose(f);
    expect_failure(TS_E_DATA, path, "compressed with gzip");
    f = fopen(path, "wb");
    for (int i = 0; i < 2000; i++) fputc('x', f);
    fclose(f);
    expect_failure(TS_E_DATA, path, "damaged tar file");
    unlink(path);
}

T_TEST(folders_and_tar_do_not_mix)
{
    (void)be, (void)s;
    static const char *const FILES[] = { "cat/1.png", NULL };
    char *folder = make_folder("mix", FILES), *path;
    FILE *f = tar_open(&path);
    tar_picture(f, "a.png", 1);
    tar_text(f, "a.cls", "0");
    tar_close(f);
    ts_dataset *d;
    T_STATUS(TS_E_DATA, ts_dataset_open(&d, (const char *[]){ folder, path }, 2));
    T_TRUE(strstr(ts_error(), "mixed") != NULL);
    T_OK(ts_dir_remove(folder));
    unlink(path);
}

int main(void)
{
    Suite *u = t_suite("dataset");
    T_ADD1(u, image_folder);
    T_ADD1(u, several_inputs);
    T_ADD1(u, missing_inputs);
    T_ADD1(u, tar_file);
    T_ADD1(u, broken_tar_files);
    T_ADD1(u, folders_and_tar_do_not_mix);
    return t_run(u);
}
