/**
 * Hostile clients against a server, beside a quiet one that asks twenty times a second on a connection of its own and must always be
 * answered rightly. What the server holds is compared before and after.
 */
import { fork } from "node:child_process"
import { once } from "node:events"
import { Agent, request as nodeRequest } from "node:http"
import { setTimeout as sleep } from "node:timers/promises"
import { attacks } from "./attacks.ts"

/** The servers that can be attacked. */
export const names = ["Listener", "HttpRouter"] as const

export type Name = (typeof names)[number]

/** What a server holds, its heap after a collection, in bytes. */
export interface Held {
  readonly descriptors: number
  readonly heap: number
  readonly fibers: number
  /** The most at once until now. */
  readonly mostFibers: number
}

/** Latencies of the quiet client, in milliseconds, and its answers that were wrong. */
export interface Quiet {
  readonly asked: number
  readonly p50: number
  readonly p99: number
  readonly most: number
  readonly wrong: ReadonlyArray<string>
}

/** The result of a run. */
export interface Report {
  readonly name: Name
  readonly alone: Quiet
  readonly beside: Quiet
  readonly before: Held
  readonly after: Held
  /** How often each attack was made. */
  readonly attacked: { readonly [attack: string]: number }
}

export interface Settings {
  readonly name: Name
  readonly seconds: number
  readonly connections: number
}

const ask = (port: number, agent: Agent, id: number): Promise<string> =>
  new Promise((resolve, reject) => {
    nodeRequest({ port, host: "127.0.0.1", path: `/quiet/${id}`, agent }, (response) => {
      let text = `${response.statusCode} `
      response.setEncoding("utf8").on("data", (part: string) => text += part).on("end", () => resolve(text)).on(
        "error",
        reject
      )
    }).on("error", reject).end()
  })

const quiet = async (port: number, isOver: () => boolean): Promise<Quiet> => {
  const agent = new Agent({ keepAlive: true, maxSockets: 1 })
  const times: Array<number> = []
  const wrong: Array<string> = []
  for (let id = 1; !isOver(); id++) {
    const began = performance.now()
    const text = await ask(port, agent, id).catch((error: unknown) => String(error))
    times.push(performance.now() - began)
    if (text !== `200 {"id":"${id}"}`) wrong.push(text)
    await sleep(50)
  }
  agent.destroy()
  times.sort((a, b) => a - b)
  const at = (part: number) => times[Math.min(times.length - 1, Math.floor(times.length * part))] ?? 0
  return { asked: times.length, p50: at(0.5), p99: at(0.99), most: at(1), wrong }
}

const over = (seconds: number) => {
  const end = performance.now() + seconds * 1_000
  return () => performance.now() >= end
}

/** Attacks a server of its own for so long. */
export const run = async ({ connections, name, seconds }: Settings): Promise<Report> => {
  const child = fork(new URL("server.ts", import.meta.url), [name], {
    execArgv: ["--expose-gc", "--no-warnings"],
    stdio: ["ignore", "inherit", "inherit", "ipc"]
  })
  const gone = once(child, "exit").then(([code]) => {
    throw new Error(`the server ended with ${String(code)}`)
  })
  gone.catch(() => {})
  const next = async () => (await Promise.race([once(child, "message"), gone]))[0] as unknown
  const look = async (): Promise<Held> => {
    child.send("look")
    // by server.ts
    return await next() as Held
  }
  try {
    const port = await next() as number
    const all = Object.entries(attacks)
    const attacked: Record<string, number> = {}
    let turn = 0
    const storm = async (isOver: () => boolean) => {
      while (!isOver()) {
        const [attack, make] = all[turn++ % all.length]!
        attacked[attack] = (attacked[attack] ?? 0) + 1
        await make(port)
      }
    }
    // every attack once, so that what is made at the first use is there before
    await Promise.all(all.map(([, make]) => make(port)))
    await quiet(port, over(1))
    await sleep(2_000)
    const before = await look()
    const alone = await quiet(port, over(Math.min(10, seconds / 10)))
    const isOver = over(seconds)
    const [beside] = await Promise.race([
      Promise.all([quiet(port, isOver), ...Array.from({ length: connections }, () => storm(isOver))]),
      gone
    ])
    // the server notices connections that ended
    let after = await look()
    for (let i = 0; i < 60 && (after.descriptors > before.descriptors || after.fibers > before.fibers); i++) {
      await sleep(250)
      after = await look()
    }
    return { name, alone, beside, before, after, attacked }
  } finally {
    child.kill("SIGKILL")
  }
}
