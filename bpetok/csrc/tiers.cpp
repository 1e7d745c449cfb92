#include "tiers.h"

#include <cstdlib>

#include "parallel.h"

namespace bpetok {

// Each is defined by compiling scan_tier.cpp and merges_tier.cpp once more.
#define BPETOK_DECLARE_TIER(name)                                                          \
    namespace name {                                                                       \
    std::size_t scan(const ScanTable& table, Rest& rest, const char** starts);             \
    void merge(const MergeTable& table, std::span<const Bytes> pretokens, Merged* merged); \
    inline constexpr Tier kTier{#name, scan, merge};                                       \
    }

BPETOK_DECLARE_TIER(baseline)
#if defined(BPETOK_X86_TIERS)
BPETOK_DECLARE_TIER(avx2)
BPETOK_DECLARE_TIER(avx512)
#endif

namespace {

const Tier* tier_named(Bytes name) {
    static const std::vector<Tier> here = tiers();
    std::string known;
    for (const Tier& tier : here) {
        if (name == tier.name) return &tier;
        known += std::string(known.empty() ? "" : ", ") + tier.name;
    }
    throw Error("tier: must be one that this machine has (" + known + "), got " + std::string(name));
}

SharedPointer<const Tier> chosen;

}  // namespace

std::vector<Tier> tiers() {
    std::vector<Tier> here{baseline::kTier};
#if defined(BPETOK_X86_TIERS)
    __builtin_cpu_init();
    const bool has_bits = __builtin_cpu_supports("bmi") && __builtin_cpu_supports("bmi2");
    const bool has_avx512 = __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl");
    if (has_bits && __builtin_cpu_supports("avx2")) here.push_back(avx2::kTier);
    if (has_bits && has_avx512) here.push_back(avx512::kTier);
#endif
    return here;
}

void use_tier(Bytes name) { chosen = tier_named(name); }

const Tier& tier_in_use() {
    if (const Tier* tier = chosen.load(std::memory_order_relaxed)) return *tier;
    const char* wanted = std::getenv("BPETOK_TIER");
    use_tier(wanted ? Bytes(wanted) : Bytes(tiers().back().name));
    return *chosen;
}

}  // namespace bpetok
