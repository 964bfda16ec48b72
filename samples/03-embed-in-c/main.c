/* Embeds rows of token ids on a pool of threads that share one bundle: plain C11 and POSIX threads.
 *
 *   embed_in_c BUNDLE IDS      IDS holds one row a line: numbers with spaces between
 */
#define _POSIX_C_SOURCE 200809L
#include <ctxrt/ctxrt.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { MAX_ROWS = 256, THREADS = 4 };

typedef struct row {
  int64_t* ids;
  int64_t length; /* tokens */
  char how[128];  /* which bucket ran it, and the first number of its embedding */
  ctxrt_status status;
} row;

typedef struct work {
  ctxrt_runtime* runtime;
  pthread_mutex_t mutex; /* guards `next` */
  size_t next, count;
  row rows[MAX_ROWS];
} work;

static void read_rows(FILE* file, work* work) {
  char* line = NULL;
  size_t capacity = 0;
  while (work->count < MAX_ROWS && getline(&line, &capacity, file) > 0) {
    row* row = &work->rows[work->count++];
    row->ids = malloc((strlen(line) / 2 + 1) * sizeof *row->ids);
    char* at = line;
    for (char* end; row->ids != NULL; at = end) {
      const int64_t id = strtoll(at, &end, 10);
      if (end == at) break;
      row->ids[row->length++] = id;
    }
  }
  free(line);
}

static void embed(ctxrt_runtime* runtime, row* row) {
  const ctxrt_tensor tensor = {"input_ids", CTXRT_INT64, &row->length, 1, row->ids};
  const ctxrt_inputs inputs = {&tensor, 1};
  ctxrt_result* result = NULL;
  row->status = ctxrt_run(runtime, &inputs, NULL, &result);
  if (row->status != CTXRT_OK) {
    snprintf(row->how, sizeof row->how, "error: %.100s", ctxrt_error_message());
    return;
  }
  ctxrt_tensor embedding;
  ctxrt_dispatch dispatch;
  if (ctxrt_result_find(result, "sentence_embedding", &embedding) == CTXRT_OK &&
      ctxrt_result_dispatch(result, 0, &dispatch) == CTXRT_OK) {
    snprintf(row->how, sizeof row->how, "%lld tokens in %s, segments: %lld, embedding of %lld numbers from %.4f",
             (long long)dispatch.length, dispatch.bucket, (long long)dispatch.segments, (long long)embedding.shape[0],
             ((const float*)embedding.data)[0]);
  }
  ctxrt_result_free(result);
}

static void* worker(void* argument) {
  work* work = argument;
  for (;;) {
    pthread_mutex_lock(&work->mutex);
    const size_t index = work->next++;
    pthread_mutex_unlock(&work->mutex);
    if (index >= work->count) return NULL;
    embed(work->runtime, &work->rows[index]);
  }
}

int main(int argc, char** argv) {
  static work work = {.mutex = PTHREAD_MUTEX_INITIALIZER};
  FILE* file = argc == 3 ? fopen(argv[2], "r") : NULL;
  if (file == NULL) {
    fprintf(stderr, "usage: embed_in_c BUNDLE IDS\n");
    return 2;
  }
  read_rows(file, &work);
  fclose(file);
  if (ctxrt_open(argv[1], NULL, &work.runtime) != CTXRT_OK) {
    fprintf(stderr, "error: %s\nhint: %s\n", ctxrt_error_message(), ctxrt_error_hint());
    return 2;
  }
  pthread_t pool[THREADS];
  for (int i = 0; i < THREADS; ++i) pthread_create(&pool[i], NULL, worker, &work);
  for (int i = 0; i < THREADS; ++i) pthread_join(pool[i], NULL);
  int status = 0;
  for (size_t i = 0; i < work.count; ++i) {
    puts(work.rows[i].how);
    if (work.rows[i].status != CTXRT_OK) status = 1;
    free(work.rows[i].ids);
  }
  ctxrt_close(work.runtime);
  return status;
}
