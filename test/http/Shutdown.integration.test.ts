import { spawn } from "node:child_process"
import { connect } from "node:net"
import { createInterface } from "node:readline"
import { assert, describe, it } from "vitest"
import { call } from "./support.ts"

const program = new URL("fixtures/lifetimeProgram.ts", import.meta.url).pathname

describe("a program that is told to end", () => {
  it.each(["SIGTERM", "SIGINT"] as const)(
    "W8 W12 exits with 0 after %s, beside a connection that says nothing, and answers what it has begun",
    async (signal) => {
      const child = spawn(process.execPath, ["--no-warnings", program], { stdio: ["ignore", "pipe", "inherit"] })
      try {
        const ended = new Promise<number | null>((resolve) => child.once("close", resolve))
        const lines = createInterface({ input: child.stdout })[Symbol.asyncIterator]()
        const port = Number(String((await lines.next()).value).split(" ")[1])
        const silent = connect(port, "127.0.0.1").on("error", () => {})
        await new Promise((resolve) => silent.once("connect", resolve))
        const answer = call(`http://127.0.0.1:${port}`, "/slow")
        assert.strictEqual((await lines.next()).value, "begun")
        child.kill(signal)
        assert.strictEqual((await answer).status, 200)
        assert.strictEqual(await ended, 0)
      } finally {
        child.kill("SIGKILL")
      }
    }
  )
})
