// ranks.h: tiktoken's rank files, in which a line is a token in base64, a space and its rank.
#pragma once

#include "merges.h"

namespace bpetok {

// The tokens of a rank file and their ids, in the file's order. Immutable.
class Ranks {
  public:
    // `where` names the file in errors. Throws FormatError if a line is not in the format.
    Ranks(Bytes contents, Bytes where);
    Ranks(const Ranks&) = delete;
    Ranks& operator=(const Ranks&) = delete;

    const std::vector<Token>& tokens() const { return tokens_; }

  private:
    bool add_line(Bytes line);

    std::string arena_;  // the bytes of the tokens
    std::vector<Token> tokens_;
};

}  // namespace bpetok
