import { MemoryBroker } from "@millrace/core"
import { BrokerContract } from "@millrace/testing"
import { Effect } from "effect"
import { describe } from "vitest"
import { keepsRow } from "../services/row.ts"

const memory = (options: MemoryBroker.Options) =>
  Effect.map(MemoryBroker.make(options), ({ driver, start, stop }) => ({ driver, start, stop, keeps: true }))

const patience = "5 seconds"

describe("X5, X6, X3, X4, F13, F3, T16, X9 the memory broker keeps the contract", () => {
  const options: BrokerContract.Options = { missing: "created", patience }
  keepsRow("memory", BrokerContract.suite("memory, by position", memory({ maximumBytes: 1024 * 1024 }), options))
  keepsRow(
    "memory, by message",
    BrokerContract.suite("memory, message by message", memory({ settlement: "message" }), options)
  )
})
