// What a call gives back inside the library: a value, or an error that says what is wrong and what to do.
#pragma once

#include <string>
#include <string_view>
#include <utility>
#include <variant>

namespace ctxrt::core {

// The classes of ctx_runtime/errors.py, and what only a C++ caller can meet.
enum class ErrorKind { input, too_long, bundle, backend, memory_budget, time_budget, quality, missing_part, cancelled, closed, internal };

struct Error {
  ErrorKind kind;
  std::string message;  // one line: what is wrong
  std::string hint;     // one line: what to do; may be empty
  std::string code;     // of a bundle error: the rule of FORMAT.md that is broken, "file-hash"
};

struct Unit {};

template <class T>
class [[nodiscard]] Result {
 public:
  Result(T value) : state_(std::move(value)) {}      // NOLINT(google-explicit-constructor)
  Result(Error error) : state_(std::move(error)) {}  // NOLINT(google-explicit-constructor)

  explicit operator bool() const { return state_.index() == 0; }
  T& operator*() & { return std::get<0>(state_); }
  const T& operator*() const& { return std::get<0>(state_); }
  T&& operator*() && { return std::get<0>(std::move(state_)); }
  T* operator->() { return &std::get<0>(state_); }
  const T* operator->() const { return &std::get<0>(state_); }
  const Error& error() const& { return std::get<1>(state_); }
  Error&& error() && { return std::get<1>(std::move(state_)); }

 private:
  std::variant<T, Error> state_;
};

using Status = Result<Unit>;

// The parts, strings and whole numbers, one after the other.
template <class... Parts>
std::string text(const Parts&... parts) {
  std::string out;
  auto append = [&out](const auto& part) {
    if constexpr (std::is_arithmetic_v<std::decay_t<decltype(part)>>) {
      out += std::to_string(part);
    } else {
      out += part;
    }
  };
  (append(parts), ...);
  return out;
}

inline Error bundle_error(std::string_view code, std::string message, std::string hint = "") {
  return {ErrorKind::bundle, std::move(message), std::move(hint), std::string(code)};
}

inline Error input_error(std::string message, std::string hint = "") {
  return {ErrorKind::input, std::move(message), std::move(hint), ""};
}

inline Error backend_error(std::string message, std::string hint = "") {
  return {ErrorKind::backend, std::move(message), std::move(hint), ""};
}

}  // namespace ctxrt::core

#define CTXRT_JOIN_(a, b) a##b
#define CTXRT_JOIN(a, b) CTXRT_JOIN_(a, b)

// Returns from the calling function with the error, if there is one.
#define CTXRT_CHECK(expression)                                                      \
  do {                                                                               \
    if (auto checked_ = (expression); !checked_) return std::move(checked_).error(); \
  } while (false)

// `CTXRT_ASSIGN(auto size, file_size(path))`: the value, or a return with the error.
#define CTXRT_ASSIGN(declaration, expression)                                                  \
  auto CTXRT_JOIN(result_, __LINE__) = (expression);                                           \
  if (!CTXRT_JOIN(result_, __LINE__)) return std::move(CTXRT_JOIN(result_, __LINE__)).error(); \
  declaration = *std::move(CTXRT_JOIN(result_, __LINE__)) /* NOLINT(bugprone-macro-parentheses): it declares */
