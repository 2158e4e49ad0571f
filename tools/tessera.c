/* tessera.c - the program: finds the sub-command and hands over. Commands: tools/commands.h. */
#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "tools/commands.h"
#include "tools/common.h"

typedef struct {
    const char *name;
    int (*run)(int argc, char **argv);
    const char *about;
} command;

static const command COMMANDS[] = {
    { "train", cmd_train, "train a tokenizer or a generator" },
    { "tokenize", cmd_tokenize, "turn pictures into token shards" },
    { "decode", cmd_decode, "turn token shards into pictures" },
    { "reconstruct", cmd_reconstruct, "show what a tokenizer keeps of a picture, scale by scale" },
    { "sample", cmd_sample, "generate pictures" },
    { "eval", cmd_eval, "measure a tokenizer: PSNR, SSIM, use of the codebook" },
    { "bench", cmd_bench, "measure speed" },
    { "info", cmd_info, "say what is in a file" },
};
enum { N_COMMANDS = sizeof COMMANDS / sizeof COMMANDS[0] };

/* Options and choices come from each command's --help, so there is nothing here to keep in step with the tables. */
static const char COMPLETION[] =
    "_tessera() {\n"
    "    local word=${COMP_WORDS[COMP_CWORD]} last=${COMP_WORDS[COMP_CWORD-1]} command=${COMP_WORDS[1]} help choices\n"
    "    COMPREPLY=()\n"
    "    if [ \"$COMP_CWORD\" = 1 ]; then\n"
    "        COMPREPLY=($(compgen -W '%s --help --list-devices --version' -- \"$word\"))\n"
    "        return\n"
    "    fi\n"
    "    [ \"$command\" = train ] && command=\"train ${COMP_WORDS[2]}\"\n"
    "    if [ \"$COMP_CWORD\" = 2 ] && [ \"${COMP_WORDS[1]}\" = train ]; then\n"
    "        COMPREPLY=($(compgen -W 'tokenizer generator' -- \"$word\"))\n"
    "        return\n"
    "    fi\n"
    "    help=$(\"${COMP_WORDS[0]}\" $command --help 2>/dev/null)\n"
    "    if [[ $last == --* ]]; then\n"
    "        choices=$(sed -nE \"s/^ .*$last ([^ ]+\\\\|[^ ]+).*/\\\\1/p\" <<<\"$help\" | sed 's/\\[[^]]*\\]//g' | tr "
    "'|' ' ')\n"
    "        [ -n \"$choices\" ] && COMPREPLY=($(compgen -W \"$choices\" -- \"$word\")) && return\n"
    "    fi\n"
    "    if [[ $word == -* ]]; then\n"
    "        COMPREPLY=($(compgen -W \"$(sed -nE 's/^  (-., )?(--[a-z0-9-]+).*/\\2/p' <<<\"$help\")\" -- \"$word\"))\n"
    "    fi\n"
    "}\n"
    "complete -o default -F _tessera tessera\n";

static void print_completion(void)
{
    char names[256];
    size_t at = 0;
    for (int i = 0; i < N_COMMANDS; i++)
        at += (size_t)snprintf(names + at, sizeof names - at, "%s%s", i ? " " : "", COMMANDS[i].name);
    printf(COMPLETION, names);
}

static void print_help(void)
{
    printf("usage: tessera COMMAND ...\n\n"
           "Turns pictures into pyramids of tokens and generates pictures by predicting them.\n\n"
           "Commands:\n");
    for (int i = 0; i < N_COMMANDS; i++) printf("  %-20s%s\n", COMMANDS[i].name, COMMANDS[i].about);
    printf("\n`tessera COMMAND --help` explains one of them.\n\n"
           "Options:\n"
           "  -h, --help          print this text\n"
           "  --list-devices      print what --device can be here, one device a line: name, tab, description\n"
           "  --version           print the version\n"
           "  --completion-bash   print the completion script: eval \"$(tessera --completion-bash)\"\n");
}

/* Where there is no GPU, standard error says why. */
static void list_devices(void)
{
    char spec[32], about[TS_ABOUT];
    int gpus = 0;
    ts_device *d = NULL;
    for (int i = 0; ts_device_at(i, spec, about); i++) {
        printf("%s\t%s\n", spec, about);
        gpus += strncmp(spec, "cuda", 4) == 0;
    }
    if (gpus == 0) report(ts_device_open(&d, "cuda", 0, TS_MATH_F32));
    ts_device_close(d);
}

static int run(int argc, char **argv)
{
    const char *word = argc > 1 ? argv[1] : "";
    if (*word == '\0') return report(ts_fail(TS_E_ARG, "a command is missing (see tessera --help)"));
    if (strcmp(word, "--help") == 0 || strcmp(word, "-h") == 0) return print_help(), 0;
    if (strcmp(word, "--list-devices") == 0) return list_devices(), 0;
    if (strcmp(word, "--version") == 0) return printf("tessera %s\n", TS_VERSION), 0;
    if (strcmp(word, "--completion-bash") == 0) return print_completion(), 0;
    for (int i = 0; i < N_COMMANDS; i++) {
        if (strcmp(word, COMMANDS[i].name) == 0) return COMMANDS[i].run(argc - 1, argv + 1);
    }
    return report(ts_fail(TS_E_ARG, "there is no command '%s' (see tessera --help)", word));
}

/* Threads that wait for each other spin for a moment, then sleep. By default libgomp spins so long that the program
 * stands nearly still while others use the cores, and sleeping at once is a third of the speed at batch 1
 * (bench/README.md). libgomp reads the setting when it is loaded, so the program starts itself once more; where that
 * fails it goes on as it is. */
static void choose_waiting(char **argv)
{
    char self[PATH_MAX];
    ssize_t n = readlink("/proc/self/exe", self, sizeof self - 1);
    if (n <= 0 || getenv("OMP_WAIT_POLICY") || getenv("GOMP_SPINCOUNT")) return;
    self[n] = '\0';
    if (setenv("GOMP_SPINCOUNT", "1000", 1) == 0) execv(self, argv);
}

int main(int argc, char **argv)
{
    choose_waiting(argv);
    int code = run(argc, argv);
    /* A result that did not arrive is a failure, however well it was computed. */
    if ((fflush(stdout) != 0 || ferror(stdout)) && code == 0)
        code = report(ts_fail(TS_E_IO, "standard output: %s", errno ? strerror(errno) : "write failed"));
    return code;
}
