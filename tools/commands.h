/* commands.h - the sub-commands. Each takes its own argv ("sample", "--tokenizer", ...) and returns the exit code. */
#ifndef TS_COMMANDS_H
#define TS_COMMANDS_H

int cmd_train(int argc, char **argv);
int cmd_tokenize(int argc, char **argv);
int cmd_decode(int argc, char **argv);
int cmd_reconstruct(int argc, char **argv);
int cmd_sample(int argc, char **argv);
int cmd_eval(int argc, char **argv);
int cmd_bench(int argc, char **argv);
int cmd_info(int argc, char **argv);

#endif
