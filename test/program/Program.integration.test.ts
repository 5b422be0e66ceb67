import { type ChildProcess, spawn } from "node:child_process"
import { once } from "node:events"
import { setTimeout as sleep } from "node:timers/promises"
import { afterEach, assert, describe, it } from "vitest"
import { root } from "../repo/workspace.ts"

const running = new Set<ChildProcess>()

afterEach(() => {
  for (const child of running) child.kill("SIGKILL")
  running.clear()
})

/** The fixture as a process. */
const start = (env: Record<string, string>, args: ReadonlyArray<string> = []) => {
  const child = spawn(process.execPath, ["test/program/fixtures/main.ts", ...args], {
    cwd: root,
    env: { ...process.env, ...env }
  })
  running.add(child)
  let output = ""
  child.stdout.on("data", (chunk) => output += chunk)
  child.stderr.on("data", (chunk) => output += chunk)
  const closed = once(child, "close")
  const end = async () => {
    await closed
    running.delete(child)
    return child.exitCode
  }
  return {
    output: () => output,
    end,
    kill: (signal: NodeJS.Signals) => child.kill(signal),
    stop: (signal: NodeJS.Signals) => {
      child.kill(signal)
      return end()
    },
    until: async (pattern: RegExp): Promise<RegExpExecArray> => {
      for (;;) {
        const found = pattern.exec(output)
        if (found !== null) return found
        assert.isNull(child.exitCode, `The process has ended without ${pattern}:\n${output}`)
        await sleep(10)
      }
    }
  }
}

const ready = /fixture is ready in \d+ ms: (.*)/
const address = /Listening at (http:\S+)/

describe("a program as a process", { timeout: 60_000, concurrent: false }, () => {
  it.each(["SIGTERM", "SIGINT"] as const)("T4 %s stops it in order, with exit code 0", async (signal) => {
    const one = start({})
    assert.strictEqual((await one.until(ready))[1], "web, orders, job, nightly")
    assert.strictEqual(await one.stop(signal), 0)
    const [, order] = await one.until(/fixture stopped in \d+ ms: (.*)/)
    assert.match(order!, /^web \d+ ms, orders \d+ ms, job \d+ ms, nightly \d+ ms, services \d+ ms$/)
  })

  it("T4 under load each message that was published is handled or left to the broker, none is interrupted", async () => {
    const one = start({ JOB: "load" })
    const [, url] = await one.until(address)
    await one.until(ready)
    await sleep(300)
    const slow = fetch(`${url}/slow`)
    await sleep(50)
    assert.strictEqual(await one.stop("SIGTERM"), 0)
    // the request that was accepted is answered
    assert.deepStrictEqual(await (await slow).json(), { slow: true })
    const [, published, handled] = await one.until(/published (\d+), handled (\d+)/)
    assert.isAbove(Number(handled), 100)
    assert.isAtMost(Number(handled), Number(published))
    assert.notInclude(one.output(), "interrupt")
  })

  it("T4 a second signal ends it at once, with the signal's code", async () => {
    const one = start({ JOB: "hangsAtStop" })
    await one.until(ready)
    one.kill("SIGTERM")
    await sleep(100)
    const from = performance.now()
    assert.strictEqual(await one.stop("SIGINT"), 130)
    assert.isBelow(performance.now() - from, 400)
  })

  it("T4 a part that hangs at its stop is left behind and named, with exit code 70", async () => {
    const one = start({ JOB: "hangsAtStop" })
    await one.until(ready)
    assert.strictEqual(await one.stop("SIGTERM"), 70)
    assert.match(
      one.output(),
      /did not stop within its budget of 2000 ms: web \d+ ms, orders \d+ ms, job 5\d\d ms and not stopped/
    )
  })

  it("T3 T4 a part that hangs at its start ends the program, and a signal meanwhile does, too", async () => {
    const one = start({ JOB: "hangsAtStart" })
    assert.strictEqual(await one.end(), 1)
    assert.include(one.output(), "job was not ready within 300 ms")
    const two = start({ JOB: "hangsAtStart" })
    await two.until(address)
    assert.strictEqual(await two.stop("SIGTERM"), 70)
  })

  it.each([["dies", "the job is broken"], ["fails", "no luck"]])(
    "T3 a part that %s is restarted, and then ends the program with exit code 1",
    async (job, why) => {
      const one = start({ JOB: job })
      assert.strictEqual(await one.end(), 1)
      const restarts = [...one.output().matchAll(/Part job failed, and is restarted in (\d+) ms/g)]
      assert.deepStrictEqual(restarts.map(([, delay]) => delay), ["10", "20"])
      assert.include(one.output(), `The part job failed, 2 restarts in 300000 ms: ${why}`)
      assert.match(one.output(), /fixture stopped in/)
    }
  )

  it("T3 an error that lasts is not retried", async () => {
    const one = start({ JOB: "refused" })
    assert.strictEqual(await one.end(), 1)
    assert.notInclude(one.output(), "is restarted")
    assert.include(one.output(), "The part job failed, and a restart would not help: wrong password")
  })

  it("T3 a part that ends the process, or a throw outside all parts, is not hidden", async () => {
    assert.strictEqual(await start({ JOB: "exits" }).end(), 9)
    const thrown = start({ JOB: "throwsLater" })
    assert.notStrictEqual(await thrown.end(), 0)
    assert.include(thrown.output(), "from a foreign library")
  })

  it("T4 a program whose job has ended stops with exit code 0", async () => {
    assert.strictEqual(await start({ JOB: "ends" }).end(), 0)
  })

  it("T3 B1 parts are chosen by name, by arguments before the environment", async () => {
    const one = start({ MILLRACE_PARTS: "orders , job" })
    assert.strictEqual(
      (await one.until(ready))[0].replace(/\d+ ms/, ""),
      "fixture is ready in : orders, job; off: web, nightly"
    )
    assert.strictEqual(await one.stop("SIGTERM"), 0)
    const two = start({ MILLRACE_PARTS: "orders" }, ["--only", "web,job", "--without=job"])
    assert.strictEqual((await two.until(ready))[1], "web; off: orders, job, nightly")
    assert.strictEqual(await two.stop("SIGTERM"), 0)
    const three = start({ ORDERS: "false" })
    assert.strictEqual((await three.until(ready))[1], "web, job, nightly; off: orders")
    assert.strictEqual(await three.stop("SIGTERM"), 0)
  })

  it("T3 T4 B1 wrong arguments end with 2, a wrong environment with 78, and both say the names", async () => {
    const end = async (env: Record<string, string>, ...args: ReadonlyArray<string>) => {
      const one = start(env, args)
      return [await one.end(), one.output()] as const
    }
    const [unknown, said] = await end({}, "--only", "orders,mailer")
    assert.strictEqual(unknown, 2)
    assert.include(said, `no part is named "mailer": the parts are web, orders, job, nightly`)
    const [flag, flagSaid] = await end({}, "--onyl", "orders")
    assert.strictEqual(flag, 2)
    assert.include(flagSaid, `"--onyl" is no argument: --help says`)
    assert.strictEqual((await end({}, "--only"))[0], 2)
    assert.strictEqual((await end({}, "--only", "job", "--without", "job"))[0], 2)
    const [help, helpSaid] = await end({}, "--help")
    assert.strictEqual(help, 0)
    assert.match(helpSaid, /web +server\n +orders +subscription\n +job +worker\n +nightly +worker/)
    const [variable, variableSaid] = await end({ MILLRACE_PARTS: "mailer" })
    assert.strictEqual(variable, 78)
    assert.include(variableSaid, `MILLRACE_PARTS: no part is named "mailer"`)
    for (const name of ["ORDERS", "WEB_LOG_LEVEL", "BROKER"]) {
      const [code, output] = await end({ [name]: "perhaps" })
      assert.strictEqual(code, 78, output)
      assert.include(output, name)
    }
  })

  it("B1 with the broker switched off the HTTP half runs, and publishing fails with a clear error", async () => {
    const one = start({ BROKER: "false" })
    const [, url] = await one.until(address)
    assert.strictEqual((await one.until(ready))[1], "web, job, nightly; off: orders")
    const answer = await fetch(`${url}/orders`, { method: "POST" })
    assert.strictEqual(answer.status, 503)
    const health = await fetch(`${url}/readyz`)
    assert.strictEqual(health.status, 200)
    assert.include(one.output(), "Part orders is off: The broker is switched off by BROKER: switch it on")
    assert.strictEqual(await one.stop("SIGTERM"), 0)
  })
})
