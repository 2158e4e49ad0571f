/* checkpoint.h - a folder per step that is whole or not there.
 *
 *   RUN/step-00001000/{files...}  manifest.json   {"files": {"model.safetensors": {"bytes": 1, "xxh3": "..."}, ...}}
 *
 * Written as step-00001000.tmp, manifest last, everything fsynced, renamed, RUN fsynced; older ones are pruned after
 * that.
 */
#ifndef TS_CHECKPOINT_H
#define TS_CHECKPOINT_H

#include <stdint.h>

#include "tessera/status.h"

/* Start a checkpoint; folders that a dead run left half-written are removed. The caller holds the lock of RUN (file.h).
 * dir (malloc'ed path of the temporary folder) is where the caller writes its files. */
ts_status ts_checkpoint_begin(const char *run, int64_t step, char **dir);

/* Finish it: fsync and hash the files in dir, write the manifest, rename, fsync; keep this one and the `keep` - 1 (keep
 * >= 1) newest before it, remove older ones. A checkpoint of the same step is replaced. Later ones are left alone: a
 * run that went on from this one after they were damaged comes to them again. Frees dir in any case. */
ts_status ts_checkpoint_commit(const char *run, int64_t step, char *dir, int keep);

/* Remove checkpoints before step, but for the keep - 1 newest of them, and all that a dead run left half-written or half
 * removed. commit does this; a run that goes on from step does it, too, since its death may have cut that off. The
 * caller holds the lock of RUN. */
ts_status ts_checkpoint_prune(const char *run, int64_t step, int keep);

/* Give up a checkpoint that was begun: its folder is removed, the line of ts_error() stays. Frees dir. */
void ts_checkpoint_abandon(char *dir);

/* The newest checkpoint whose manifest verifies (by number, never by time): dir is malloc'ed, NULL and step -1 if there
 * is none or no RUN. Damaged ones that are newer are reported through warn (may be NULL) and passed over. */
ts_status ts_checkpoint_newest(const char *run, int64_t *step, char **dir, void (*warn)(const char *line));

/* Does DIR's manifest match its files? TS_E_DATA says what differs. Files that it does not name are not looked at. */
ts_status ts_checkpoint_verify(const char *dir);

#endif
