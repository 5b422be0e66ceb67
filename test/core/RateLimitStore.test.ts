import { RateLimit } from "@millrace/core"
import { RateLimitStoreContract } from "@millrace/testing"

RateLimitStoreContract.suite("memory", RateLimit.layerMemory(), { clock: "effect", programs: 300 })
