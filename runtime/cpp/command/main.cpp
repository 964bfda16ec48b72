// `ctxrt`: inspect, run, generate, explain, verify and bench a bundle on the device. Exit status: 0 done, 1 a check
// failed, 2 bad input or a missing part, with one line that says what and one that says what to do.
#include <exception>
#include <functional>
#include <iostream>

#include "commands.h"
#include "tables.h"

namespace ctxrt::command {
namespace {

struct Command {
  std::string name, help, example;
  std::vector<Option> options;
  std::function<core::Result<int>(const Arguments&)> work;
};

const std::vector<Command>& commands() {
  static const Option json{"--json", "", "print one JSON object, and nothing else, on stdout"};
  static const Option min_quality{"--min-quality", "X", "the least quality that an input is run with"};
  static const std::vector<Command> all{
      {"inspect", "show what is in a bundle", "", {json}, inspect},
      {"run",
       "run arrays of any length",
       "--input ids.npz --output out.npz",
       {{"--input", "FILE", "an .npz with one array an input, (batch, length, …) or (length, …)"},
        {"--raw", "NAME:DTYPE:SHAPE:FILE", "an input from plain bytes: input_ids:int64:1,16:ids.bin"},
        {"--output", "FILE", "write the outputs to this .npz"},
        {"--raw-output", "FOLDER", "write the bytes of each output to FOLDER/NAME.bin"},
        min_quality,
        json},
       run},
      {"generate",
       "generate text, as token ids, from a prompt of token ids",
       "--ids 12,7,99 --max-new-tokens 20",
       {{"--ids", "N,N,…", "the prompt"},
        {"--max-new-tokens", "N", "tokens of the answer, at most (default: until the largest bucket is full)"},
        {"--temperature", "X", "0, the default, takes the likeliest token each time"},
        {"--top-k", "N", "draw from this many of the likeliest tokens"},
        {"--top-p", "X", "draw from the likeliest tokens that together are so probable"},
        {"--min-p", "X", "draw from tokens with this share of the likeliest one's probability"},
        {"--repetition-penalty", "X", "over 1 makes tokens less likely that came before"},
        {"--seed", "N", "the same seed draws the same tokens"},
        {"--stop-id", "N", "a token that ends the answer, beside those of the model; may be given more than once"},
        {"--logprobs", "N", "give log-probabilities, of this many of the likeliest too"},
        json},
       generate},
      {"explain",
       "say where an input would run, and why",
       "--length 3000",
       {{"--length", "N", "in tokens"}, {"--batch", "N", "rows of this length (default 1)"}, min_quality, json},
       explain},
      {"verify", "prove the bundle on this device from its golden vectors", "", {json}, verify},
      {"bench",
       "measure the latency by length",
       "--lengths 16,128,512",
       {{"--lengths", "N,N,…", "in tokens (default: each bucket's longest)"},
        {"--batch", "N", "rows of each run (default 1)"},
        {"--repeat", "N", "runs of each length (default 50)"},
        json},
       bench}};
  return all;
}

void print_help() {
  std::cout << "ctxrt COMMAND BUNDLE [options]\n\n";
  for (const auto& command : commands()) {
    std::cout << command.name << ": " << command.help << "\n";
    for (const auto& option : command.options) {
      std::cout << "    " << option.name << (option.argument.empty() ? "" : " " + option.argument) << ": "
                << option.help << "\n";
    }
    std::cout << "    example: ctxrt " << command.name << " minilm.bundle " << command.example << "\n";
  }
  std::cout << "\nONNX Runtime: CTXRT_ONNXRUNTIME names its library, CTXRT_PYTHON a Python that has the package.\n";
}

int fail(const core::Error& error, bool json) {
  std::cerr << "error: " << error.message << "\n";
  if (!error.hint.empty()) std::cerr << "hint: " << error.hint << "\n";
  if (json) print_json({{"error", {{"code", error.code}, {"message", error.message}, {"hint", error.hint}}}});
  return 2;
}

int run_command(const std::vector<std::string>& words) {
  if (words.empty() || words[0] == "--help" || words[0] == "-h") {
    print_help();
    return words.empty() ? 2 : 0;
  }
  for (const auto& command : commands()) {
    if (command.name != words[0]) continue;
    const auto arguments = parse_arguments({words.begin() + 1, words.end()}, command.options);
    if (!arguments) return fail(arguments.error(), false);
    const auto status = command.work(*arguments);
    return status ? *status : fail(status.error(), arguments->has("--json"));
  }
  return fail(core::input_error("unknown command '" + words[0] + "'", "ctxrt --help lists the commands"), false);
}

}  // namespace
}  // namespace ctxrt::command

int main(int count, char** words) {
  try {
    return ctxrt::command::run_command({words + 1, words + count});
  } catch (const std::exception& error) {
    std::cerr << "error: " << error.what() << "\n";
    return 2;
  }
}
