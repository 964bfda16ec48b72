/* ctxrt: run a ctx-export bundle from C, or from any language that can call C.
 *
 * Every function that can fail returns a ctxrt_status; on anything but CTXRT_OK the out-parameters are unchanged and
 * ctxrt_last_error() tells, on the same thread, what went wrong. No exception leaves the library.
 *
 * Threads. A ctxrt_runtime may be used from any number of threads at once, but for ctxrt_close, which must be the last
 * call. A ctxrt_cancel may be cancelled from any thread while runs use it. All other handles belong to one thread at a
 * time; reading one from several threads is fine.
 *
 * Memory. Strings and arrays that a handle gives are valid until the handle is freed. Freeing NULL does nothing.
 */
#ifndef CTXRT_CTXRT_H_
#define CTXRT_CTXRT_H_

#include <stddef.h>
#include <stdint.h>

#if defined(CTXRT_BUILDING)
#define CTXRT_API __attribute__((visibility("default")))
#else
#define CTXRT_API
#endif

#ifdef __cplusplus
extern "C" {
#endif

#define CTXRT_VERSION "0.1.0"

typedef enum ctxrt_status {
  CTXRT_OK = 0,
  CTXRT_ERROR_INPUT = 1,         /* an input's name, dtype, shape or value; a null pointer */
  CTXRT_ERROR_TOO_LONG = 2,      /* longer than the bundle takes, where its overflow policy is `error` */
  CTXRT_ERROR_BUNDLE = 3,        /* not a sound bundle; ctxrt_error_code says which rule of FORMAT.md it breaks */
  CTXRT_ERROR_BACKEND = 4,       /* no backend can open or run it */
  CTXRT_ERROR_MEMORY_BUDGET = 5, /* more memory than the resource profile allows, or than there is */
  CTXRT_ERROR_MISSING_PART = 6,  /* ONNX Runtime is not found */
  CTXRT_ERROR_CANCELLED = 7,     /* ctxrt_cancel_now was called */
  CTXRT_ERROR_INTERNAL = 8,      /* a defect of this library */
  CTXRT_ERROR_TIME_BUDGET = 9,   /* more time than the resource profile allows */
  CTXRT_ERROR_QUALITY = 10       /* no bucket is known to answer well enough at this length */
} ctxrt_status;

/* What the last failed call of this thread says; valid until this thread's next call that fails. */
CTXRT_API const char* ctxrt_error_message(void); /* one line: what is wrong */
CTXRT_API const char* ctxrt_error_hint(void);    /* one line: what to do; "" if there is nothing to say */
CTXRT_API const char* ctxrt_error_code(void);    /* of CTXRT_ERROR_BUNDLE: "file-hash"; else "" */

CTXRT_API const char* ctxrt_version(void);

/* ---- Arrays ---------------------------------------------------------------------------------------------------- */

typedef enum ctxrt_dtype {
  CTXRT_FLOAT32 = 0,
  CTXRT_FLOAT16 = 1,
  CTXRT_INT64 = 2,
  CTXRT_INT32 = 3,
  CTXRT_BOOL = 4,                  /* one byte, 0 or 1 */
  CTXRT_FLOAT64 = 5,               /* inputs only: rounded to what the bundle takes */
  CTXRT_DTYPE_ANY_INT = 0x7fffffff /* keeps every int readable */
} ctxrt_dtype;

/* A named array, contiguous, row-major. `shape` has `rank` sizes. Nothing in it is owned. */
typedef struct ctxrt_tensor {
  const char* name;
  ctxrt_dtype dtype;
  const int64_t* shape;
  size_t rank;
  const void* data;
} ctxrt_tensor;

/* The arrays of one call: (batch, length, ...), or (length, ...) for a single row. A mask input says where shorter rows
 * end; it and segment ids may be left out. The memory must stay as it is until the run returns. */
typedef struct ctxrt_inputs {
  const ctxrt_tensor* tensors;
  size_t count;
} ctxrt_inputs;

/* ---- Opening --------------------------------------------------------------------------------------------------- */

typedef struct ctxrt_runtime ctxrt_runtime;

typedef enum ctxrt_share_weights {
  CTXRT_SHARE_DEFAULT = 0,         /* what the bundle says */
  CTXRT_SHARE_MMAP = 1,            /* sessions share the mapped weight file and one repacked copy */
  CTXRT_SHARE_OFF = 2,             /* each session has its own */
  CTXRT_SHARE_ANY_INT = 0x7fffffff /* keeps every int readable */
} ctxrt_share_weights;

typedef enum ctxrt_check {
  CTXRT_CHECK_CHANGED = 0,         /* all of FORMAT.md; the user's own record of the hash of weights is believed until
                                    * their file changes */
  CTXRT_CHECK_FULL = 1,            /* the same, without records: everything is hashed */
  CTXRT_CHECK_SIZES = 2,           /* all but the hashes, for a bundle that was just written */
  CTXRT_CHECK_ANY_INT = 0x7fffffff /* keeps every int readable */
} ctxrt_check;

/* All zeros, or a null pointer to it, are the defaults: what the bundle says. */
typedef struct ctxrt_options {
  ctxrt_share_weights share_weights;
  /* Bytes of private memory that open sessions may take together; 0: default. The repacked weights that they share
   * belong to the runtime and are not counted: no session that closes gives them back, ctxrt_close does. */
  uint64_t session_budget;
  const char* const* backends; /* names in order of preference, for every bucket: "onnxruntime-cpu"; NULL: default */
  size_t backend_count;
  ctxrt_check check;
  /* An input runs in the smallest bucket that is known to be at least this good at its length, in the metric of the
   * bundle's table of quality, which there must be; 0: default. */
  double min_quality;
} ctxrt_options;

/* Verifies the bundle in the folder `path` and holds it; graphs are opened on first use. */
CTXRT_API ctxrt_status ctxrt_open(const char* path, const ctxrt_options* options, ctxrt_runtime** runtime);
/* Gives everything back but results, which stay valid. No other call may use the runtime at the same time. */
CTXRT_API void ctxrt_close(ctxrt_runtime* runtime);
/* The sha256 of manifest.json, in hexadecimal: it names the bundle. */
CTXRT_API const char* ctxrt_manifest_sha256(const ctxrt_runtime* runtime);
/* The longest input, in tokens, that runs without segments. */
CTXRT_API int64_t ctxrt_max_length(const ctxrt_runtime* runtime);

/* ---- Running --------------------------------------------------------------------------------------------------- */

/* Stops the runs that it was given to. One that was cancelled stays so. */
typedef struct ctxrt_cancel ctxrt_cancel;

CTXRT_API ctxrt_cancel* ctxrt_cancel_new(void); /* NULL where memory is short */
CTXRT_API void ctxrt_cancel_now(ctxrt_cancel* cancel);
CTXRT_API void ctxrt_cancel_free(ctxrt_cancel* cancel); /* after the last run that uses it */

typedef struct ctxrt_result ctxrt_result;

/* How one row was run. */
typedef struct ctxrt_dispatch {
  int64_t length; /* tokens */
  const char* bucket;
  const char* backend;
  int64_t padding;  /* tokens that were added to it */
  int64_t segments; /* windows that it was cut into; 1 if it was not */
  double ms;        /* wall time of the runs that the row had a part in, in milliseconds */
  const char* reason;
} ctxrt_dispatch;

/* Runs one input of any length. `cancel` may be NULL. */
CTXRT_API ctxrt_status ctxrt_run(ctxrt_runtime* runtime, const ctxrt_inputs* inputs, ctxrt_cancel* cancel,
                                 ctxrt_result** result);
/* Runs `count` inputs, batched by the runtime; `results` has room for `count`. */
CTXRT_API ctxrt_status ctxrt_run_many(ctxrt_runtime* runtime, const ctxrt_inputs* inputs, size_t count,
                                      ctxrt_cancel* cancel, ctxrt_result** results);
CTXRT_API void ctxrt_result_free(ctxrt_result* result);
/* Outputs have a batch axis if the inputs had one; token outputs of shorter rows are zero beyond their length. */
CTXRT_API size_t ctxrt_result_outputs(const ctxrt_result* result);
CTXRT_API ctxrt_status ctxrt_result_output(const ctxrt_result* result, size_t index, ctxrt_tensor* output);
CTXRT_API ctxrt_status ctxrt_result_find(const ctxrt_result* result, const char* name, ctxrt_tensor* output);
/* One dispatch a row. */
CTXRT_API size_t ctxrt_result_rows(const ctxrt_result* result);
CTXRT_API ctxrt_status ctxrt_result_dispatch(const ctxrt_result* result, size_t row, ctxrt_dispatch* dispatch);

/* ---- Generating text ------------------------------------------------------------------------------------------- */

/* All zeros, or a null pointer to it, are the defaults: the likeliest token each time, until the model ends it. */
typedef struct ctxrt_generation_options {
  int64_t max_new_tokens;    /* of the answer; 0: until the largest bucket is full */
  double temperature;        /* 0 takes the likeliest token; 1 draws from the model's own distribution */
  int64_t top_k;             /* draw from this many of the likeliest tokens only; 0: all */
  double top_p;              /* draw from the likeliest tokens that together have this probability; 0: all */
  double min_p;              /* draw from tokens with this share of the likeliest one's probability; 0: all */
  double repetition_penalty; /* over 1, tokens that came before become less likely; 0: none */
  const uint64_t* seed;      /* the same seed draws the same tokens, here and in Python; NULL: others each time */
  const int64_t* stop_ids;   /* tokens that end the answer, beside those of the model */
  size_t stop_id_count;
  int logprobs;         /* 1: give each token's log-probability */
  int64_t top_logprobs; /* and those of this many of the likeliest tokens */
} ctxrt_generation_options;

typedef struct ctxrt_likely_token {
  int64_t id;
  double logprob;
} ctxrt_likely_token;

/* One token of an answer. */
typedef struct ctxrt_token {
  int64_t id;
  double logprob;                /* the natural logarithm of its probability by the model; NaN unless asked for */
  const ctxrt_likely_token* top; /* the likeliest tokens, the likeliest first */
  size_t top_count;
  const char* bucket; /* where it was generated */
  int64_t capacity;   /* of the KV cache there, in tokens */
} ctxrt_token;

/* Called for each token as it comes, on the thread that called ctxrt_generate; the token is valid until it returns.
 * 0 goes on, anything else ends the answer. It may use the runtime, but must not throw. */
typedef int (*ctxrt_on_token)(const ctxrt_token* token, void* user_data);

typedef enum ctxrt_finish {
  CTXRT_FINISH_EOS = 0,             /* the model ended the text */
  CTXRT_FINISH_STOP = 1,            /* one of stop_ids came */
  CTXRT_FINISH_LENGTH = 2,          /* there may be no more tokens */
  CTXRT_FINISH_CANCELLED = 3,       /* the callback or ctxrt_cancel_now ended it */
  CTXRT_FINISH_ANY_INT = 0x7fffffff /* keeps every int readable */
} ctxrt_finish;

typedef struct ctxrt_generation ctxrt_generation;

/* How a text was generated. */
typedef struct ctxrt_generation_dispatch {
  ctxrt_finish finish_reason;
  int64_t prompt_tokens;
  int64_t reused_tokens;      /* of the prompt, cached by the call before */
  const char* const* buckets; /* that it went through, in order */
  size_t bucket_count;
  const char* backend;
  int64_t cache_bytes; /* of the KV cache at the end */
  double prefill_ms;   /* wall time of the prompt, and of opening the session where it was not open */
  double decode_ms;    /* wall time of the steps after it */
  const char* reason;  /* why it began in the first bucket */
} ctxrt_generation_dispatch;

/* Answers the prompt of `count` token ids, in a bundle of a causal language model. `options`, `on_token` and `cancel`
 * may be NULL. A cancelled answer is no error: it ends where it is, in the midst of the prompt too.
 *
 * Prompts run one at a time, each over a KV cache of its own; for several at once, call it from several threads. The
 * cache of the last text is kept: a prompt that begins with the same tokens runs only what is new. */
CTXRT_API ctxrt_status ctxrt_generate(ctxrt_runtime* runtime, const int64_t* ids, size_t count,
                                      const ctxrt_generation_options* options, ctxrt_on_token on_token, void* user_data,
                                      ctxrt_cancel* cancel, ctxrt_generation** generation);
CTXRT_API void ctxrt_generation_free(ctxrt_generation* generation);
/* The ids of the answer, the one that ends the text included; `count` of them. */
CTXRT_API const int64_t* ctxrt_generation_ids(const ctxrt_generation* generation, size_t* count);
CTXRT_API ctxrt_status ctxrt_generation_token(const ctxrt_generation* generation, size_t index, ctxrt_token* token);
CTXRT_API void ctxrt_generation_get(const ctxrt_generation* generation, ctxrt_generation_dispatch* dispatch);

/* ---- Telling --------------------------------------------------------------------------------------------------- */

typedef struct ctxrt_explanation ctxrt_explanation;

/* Where `batch` rows of `length` tokens would run, and why; `padding` and `ms` are 0. Opens the session. */
CTXRT_API ctxrt_status ctxrt_explain(ctxrt_runtime* runtime, int64_t length, int64_t batch,
                                     ctxrt_explanation** explanation);
CTXRT_API void ctxrt_explanation_get(const ctxrt_explanation* explanation, ctxrt_dispatch* dispatch);
CTXRT_API void ctxrt_explanation_free(ctxrt_explanation* explanation);

typedef struct ctxrt_stats ctxrt_stats;

typedef struct ctxrt_pool_stats {
  size_t open_sessions;
  int64_t resident_bytes; /* private memory of the open sessions, an estimate */
  int64_t evictions;
  size_t buckets;   /* see ctxrt_stats_bucket */
  size_t fallbacks; /* see ctxrt_stats_fallback */
} ctxrt_pool_stats;

typedef struct ctxrt_bucket_stats {
  const char* bucket;
  int64_t runs; /* of a graph; every segment of a longer row is one */
  int64_t rows;
  int64_t tokens, padding; /* tokens */
  double seconds;
  int64_t fused; /* rows whose segments the model fused itself */
} ctxrt_bucket_stats;

/* A backend that could not serve a bucket, or weights that could not be shared. */
typedef struct ctxrt_fallback {
  const char* bucket;
  const char* backend;
  const char* reason;
} ctxrt_fallback;

/* What ran so far and what is open now. */
CTXRT_API ctxrt_status ctxrt_stats_new(const ctxrt_runtime* runtime, ctxrt_stats** stats);
CTXRT_API void ctxrt_stats_free(ctxrt_stats* stats);
CTXRT_API void ctxrt_stats_pool(const ctxrt_stats* stats, ctxrt_pool_stats* pool);
CTXRT_API ctxrt_status ctxrt_stats_bucket(const ctxrt_stats* stats, size_t index, ctxrt_bucket_stats* bucket);
CTXRT_API ctxrt_status ctxrt_stats_fallback(const ctxrt_stats* stats, size_t index, ctxrt_fallback* fallback);

/* ---- Verifying ------------------------------------------------------------------------------------------------- */

typedef struct ctxrt_report ctxrt_report;

typedef struct ctxrt_parity_case {
  const char* bucket;
  int64_t length; /* of the longest row, in tokens */
  int64_t batch;
  double max_abs; /* largest difference to the stored outputs; infinite where shapes or finiteness differ */
  double cosine;  /* smallest cosine of a row's output */
  int passed;     /* within the bucket's tolerance */
} ctxrt_parity_case;

/* Runs the bundle's golden vectors on the backends that serve it here. */
CTXRT_API ctxrt_status ctxrt_verify(ctxrt_runtime* runtime, ctxrt_report** report);
CTXRT_API void ctxrt_report_free(ctxrt_report* report);
/* 1 if every bucket was run, and every case is within its tolerance. */
CTXRT_API int ctxrt_report_passed(const ctxrt_report* report);
CTXRT_API size_t ctxrt_report_cases(const ctxrt_report* report);
CTXRT_API ctxrt_status ctxrt_report_case(const ctxrt_report* report, size_t index, ctxrt_parity_case* parity_case);

#ifdef __cplusplus
}
#endif

#endif /* CTXRT_CTXRT_H_ */
