import { Apicurio, type ServerFailed, type ServerUnavailable } from "@millrace/testing/servers"
import { Effect } from "effect"
import { spawn } from "node:child_process"
import { createInterface } from "node:readline"
import { fileURLToPath } from "node:url"

/** A JVM with Apache Avro, protobuf-java and Apicurio's serializers; see `fixtures/RegistryPeer.java` for its tasks. */
export interface JavaPeer {
  /** Asks for a task in two words and its inputs; fails with the exception's text. */
  readonly ask: (task: string, ...inputs: ReadonlyArray<string | Uint8Array>) => Promise<Buffer>
  readonly close: () => void
}

const source = fileURLToPath(new URL("./fixtures/RegistryPeer.java", import.meta.url))

const start = (command: string, args: ReadonlyArray<string>): JavaPeer => {
  const peer = spawn(command, args, { stdio: ["pipe", "pipe", "pipe"] })
  let log = ""
  peer.stderr.setEncoding("utf8").on("data", (text: string) => log = (log + text).slice(-4000))
  const answers = createInterface({ input: peer.stdout })[Symbol.asyncIterator]()
  return {
    ask: async (task, ...inputs) => {
      const words = inputs.map((input) => Buffer.from(input as string).toString("hex"))
      peer.stdin.write(`${[task, ...words].join(" ")}\n`)
      const { value = "error the peer has ended" } = await answers.next()
      if (value.startsWith("error ")) throw new Error(`${task}: ${value}\n${log}`)
      return Buffer.from(value, "hex")
    },
    close: () => peer.kill()
  }
}

/** Starts the JVM for a registry. */
export const javaPeer = (ownUrl: string): Effect.Effect<JavaPeer, ServerUnavailable | ServerFailed> =>
  Effect.map(Apicurio.java(source), ({ args, command }) => start(command, [...args, ownUrl]))
