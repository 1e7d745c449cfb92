// ranks.h: the tokens of a vocabulary and their ids, as training makes them or as tiktoken's rank files hold them, in
// which a line is a token in base64, a space and its rank.
#pragma once

#include <span>

#include "merges.h"

namespace bpetok {

// Tokens and their ids, in the order of the file or of training. Immutable.
class Ranks {
  public:
    // `where` names the file in errors. Throws FormatError if a line is not in the format.
    Ranks(Bytes contents, Bytes where);
    // What training makes: these tokens, and those of the merges, whose ids begin at `next_id`.
    Ranks(std::span<const Token> alphabet, Id next_id, std::vector<Merge> merges);
    Ranks(const Ranks&) = delete;
    Ranks& operator=(const Ranks&) = delete;

    const std::vector<Token>& tokens() const { return tokens_; }
    // The first of these texts that is a token; nullptr if none is.
    const Bytes* first_token(std::span<const Bytes> texts) const;

    // The merge of each token of more than a byte, in the order of their ids; none where they are not known.
    const std::vector<Merge>& merges() const { return merges_; }

  private:
    bool add_line(Bytes line);

    std::string arena_;  // the bytes of the tokens
    std::vector<Token> tokens_;
    std::vector<Merge> merges_;
};

}  // namespace bpetok
