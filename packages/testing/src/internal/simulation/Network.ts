/**
 * The network between the processes of a world and their broker: slow calls, failing calls, lost answers, and processes that
 * die without notice.
 */
import { BrokerError, type Delivery, type Driver, type Message, type Outgoing } from "@millrace/core"
import { Effect, Exit, Fiber, Scope } from "effect"
import type { Process, World } from "./World.ts"

/** The probabilities of faults in calls to the broker, each from 0 to 1. May be changed while the world runs. */
export interface Faults {
  /** A publish fails. Half of these take effect all the same. Default: 0. */
  publish?: number | undefined
  /** A commit or a settlement fails. Half of these take effect all the same. Default: 0. */
  settle?: number | undefined
  /**
   * A call that extends claims fails, dies or is never answered; half of these take effect all the same. Never two calls of
   * one lease in a row, so a claim that is extended three times in its life is kept. Default: 0.
   */
  extend?: number | undefined
  /** A declaration fails. Half of these take effect all the same. Default: 0. */
  declare?: number | undefined
  /** A publish, a commit, a settlement or a declaration is never answered. Half of these take effect. Default: 0. */
  silent?: number | undefined
  /**
   * A call throws, or dies with a defect: a publish, a commit, a settlement, a declaration or the start of `consume`.
   * Default: 0.
   */
  broken?: number | undefined
  /** A call is slow. Default: 0. */
  slow?: number | undefined
  /** The longest delay of a slow call in milliseconds. Default: 20. */
  longest?: number | undefined
  /** Makes the broker refuse a message for good: returns the error, or undefined to accept the message. */
  refuses?: ((outgoing: Outgoing<Uint8Array>) => BrokerError.BrokerError | undefined) | undefined
}

/** A call to the broker. */
export type Operation = "publish" | "settle" | "extend" | "declare"

/** Observes calls and events on the network, at the moment they happen. */
export interface Watch {
  /** A process starts to consume: at the start and after each restart of a source. */
  readonly consuming?: ((process: Process) => void) | undefined
  /** The driver offers a batch, before the engine takes it. */
  readonly offered?: ((process: Process, lease: Driver.Lease, batch: ReadonlyArray<Delivery>) => void) | undefined
  /** The connection of a process has ended, on either side. */
  readonly severed?: ((process: Process) => void) | undefined
  readonly opened?: ((process: Process, lease: Driver.Lease) => void) | undefined
  /** A close begins; the returned function is called at its end. */
  readonly closing?:
    | ((process: Process, lease: Driver.Lease, how: "revoke" | "lost") => (() => void) | undefined)
    | undefined
  /** The engine commits or settles; the returned function is called at the end of the call. */
  readonly settling?:
    | ((
      process: Process,
      lease: Driver.Lease,
      what: number | ReadonlyArray<Driver.Settled>
    ) => ((exit: Exit.Exit<void, BrokerError.BrokerError>) => void) | undefined)
    | undefined
  /** The broker carried a publish out, whether the answer arrives or not. */
  readonly published?: ((process: Process, batch: ReadonlyArray<Outgoing<Uint8Array>>) => void) | undefined
  /** The broker refused a publish for good. */
  readonly refused?: ((process: Process, outgoing: Outgoing<Uint8Array>) => void) | undefined
  /** A call goes wrong other than by an error that the broker answers; `lease` is set for calls of a lease. */
  readonly astray?:
    | ((process: Process, operation: Operation | "consume", how: "silent" | "broken", lease?: Driver.Lease) => void)
    | undefined
}

/** A broker behind a network. */
export interface Network {
  /** The broker as a process sees it. */
  readonly connect: (process: Process, capabilities?: Partial<Driver.Capabilities>) => Driver.Driver
  /**
   * The broker notices that a process is gone, and gives its partitions and messages to other processes. The process's
   * engine is not asked.
   */
  readonly gone: (process: Process) => void
  readonly faults: Faults
}

type Act = () => Effect.Effect<void, BrokerError.BrokerError>

interface Link {
  readonly fiber: Fiber.Fiber<void, BrokerError.BrokerError>
  readonly far: Scope.Closeable
}

/**
 * Puts a network between a driver and the processes of a world. The driver itself runs in a process that never dies.
 *
 * `error` makes the errors of failing calls; a program that runs a copy of the core passes that copy's function. Default:
 * this core's.
 */
export const make = (
  world: World,
  driver: Driver.Driver,
  faults: Faults = {},
  watch: Watch = {},
  error: typeof BrokerError.make = BrokerError.make
): Network => {
  const far = world.process("broker")
  const links = new Map<Process, Set<Link>>()
  const { system } = driver

  // a fault with rate 0 takes no random number, so adding a kind of fault changes no other history
  const happens = (rate: number | undefined): boolean => rate !== undefined && rate > 0 && world.chance(rate)

  const failed = (operation: Operation) =>
    error({
      system,
      operation: operation === "extend" ? "settle" : operation,
      reason: "Lost",
      message: `The connection broke during ${operation}.`
    })

  /** Carries out half of the calls whose answer is wrong or never comes. */
  const carried = (act: Act): Effect.Effect<unknown> => world.chance(0.5) ? Effect.exit(Effect.suspend(act)) : Exit.void

  /** A call of a process: immediate, late, with a wrong answer, without an answer, or a throw. */
  const call = (process: Process, operation: Operation, act: Act, lease?: Driver.Lease): ReturnType<Act> => {
    if (happens(faults.broken)) {
      watch.astray?.(process, operation, "broken", lease)
      const defect = new Error(`The driver broke during ${operation}.`)
      if (world.chance(0.5)) throw defect
      return Effect.andThen(carried(act), Effect.die(defect))
    }
    if (happens(faults.silent)) {
      watch.astray?.(process, operation, "silent", lease)
      return Effect.andThen(carried(act), Effect.never)
    }
    return answered(operation, act, faults[operation] ?? 0)
  }

  const answered = (operation: Operation, act: Act, rate: number): ReturnType<Act> => {
    const fails = world.chance(rate)
    const isCarried = !fails || world.chance(0.5)
    const wait = world.chance(faults.slow ?? 0) ? world.integer(1, faults.longest ?? 20) : 0
    const acted = (): Effect.Effect<void, BrokerError.BrokerError> => {
      const done = isCarried ? act() : Exit.void
      if (!fails) return done
      const lost = Exit.fail(failed(operation))
      return Exit.isExit(done) ? lost : Effect.andThen(done, lost)
    }
    // some drivers fail a call synchronously
    if (wait === 0) return fails && world.chance(0.5) ? Effect.suspend(acted) : acted()
    // the way there and the way back
    const there = world.integer(0, wait)
    return Effect.sleep(there).pipe(
      Effect.andThen(Effect.suspend(() => Effect.exit(acted()))),
      Effect.flatMap((exit) => Effect.andThen(Effect.sleep(wait - there), exit))
    )
  }

  /** Extends claims; of two calls in a row at least one arrives in time. */
  const extending = (process: Process, lease: () => Driver.Lease) => {
    let isLost = false
    return (act: Act): ReturnType<Act> => {
      isLost = !isLost && happens(faults.extend)
      if (!isLost) return answered("extend", act, 0)
      switch (world.integer(0, 2)) {
        case 0:
          watch.astray?.(process, "extend", "silent", lease())
          return Effect.andThen(carried(act), Effect.never)
        case 1:
          watch.astray?.(process, "extend", "broken", lease())
          return Effect.andThen(carried(act), Effect.die(new Error("The driver broke during extend.")))
        default:
          return answered("extend", act, 1)
      }
    }
  }

  const leaseOf = (process: Process, lease: Driver.Lease): Driver.Lease => {
    const { commit, extend, settle } = lease
    const told = (what: number | ReadonlyArray<Driver.Settled>, act: Act) => {
      const end = watch.settling?.(process, near, what)
      if (end === undefined) return call(process, "settle", act, near)
      let called: ReturnType<Act>
      try {
        called = call(process, "settle", act, near)
      } catch (defect) {
        end(Exit.die(defect))
        throw defect
      }
      if (Exit.isExit(called)) {
        end(called as Exit.Exit<void, BrokerError.BrokerError>)
        return called
      }
      return Effect.onExitPrimitive(called, (exit) => {
        end(exit)
        return undefined
      })
    }
    const extended = extending(process, () => near)
    const near: Driver.Lease = {
      ...lease,
      commit: commit && ((position, beyond) => told(position, () => commit(position, beyond))),
      settle: settle && ((batch) => told(batch, () => settle(batch))),
      extend: extend && ((batch) => extended(() => extend(batch)))
    }
    return near
  }

  const sinkOf = (process: Process, sink: Driver.Sink): Driver.Sink => {
    const near = new Map<Driver.Lease, Driver.Lease>()
    return {
      ready: () => process.alive && sink.ready(),
      polled: () => process.alive && sink.polled(),
      open: (lease) => {
        const own = leaseOf(process, lease)
        near.set(lease, own)
        if (!process.alive) return
        watch.opened?.(process, own)
        sink.open(own)
      },
      offer: (lease, batch) => {
        const own = near.get(lease)!
        if (!process.alive) return Effect.never
        watch.offered?.(process, own, batch)
        return sink.offer(own, batch)
      },
      settled: (lease) => sink.settled(near.get(lease)!),
      close: (lease, how) =>
        Effect.suspend(() => {
          const own = near.get(lease)!
          if (!process.alive) return Effect.void
          let end: (() => void) | undefined
          const told = Effect.suspend(() => {
            end = watch.closing?.(process, own, how)
            return sink.close(own, how)
          })
          // a process may die while its broker waits for it
          const close = Effect.raceFirst(process.run(told), dead(process))
          return Effect.andThen(close, Effect.sync(() => process.alive && end?.()))
        })
    }
  }

  const deaths = new Map<Process, Array<() => void>>()
  const dead = (process: Process): Effect.Effect<void> =>
    Effect.callback((resume) => {
      if (!process.alive) return resume(Effect.void)
      const all = deaths.get(process) ?? []
      deaths.set(process, all)
      all.push(() => resume(Effect.void))
    })

  const consume = (process: Process): Driver.Driver["consume"] => (options, sink) => {
    watch.consuming?.(process)
    if (happens(faults.broken)) {
      watch.astray?.(process, "consume", "broken")
      const defect = new Error("The driver broke as it began to consume.")
      if (world.chance(0.5)) throw defect
      return Effect.die(defect)
    }
    return consuming(process, options, sink)
  }

  const consuming = (process: Process, options: Driver.ConsumeOptions, sink: Driver.Sink) =>
    Effect.uninterruptibleMask((restore) =>
      Effect.gen(function*() {
        const scope = yield* Scope.make()
        const fiber = far.fork(Scope.provide(driver.consume(options, sinkOf(process, sink)), scope))
        fiber.addObserver(() => watch.severed?.(process))
        const link: Link = { fiber, far: scope }
        const own = links.get(process) ?? new Set()
        links.set(process, own.add(link))
        yield* Effect.addFinalizer((exit) =>
          // a link stays registered if its process dies before the close
          Effect.andThen(far.run(Scope.close(scope, exit)), Effect.sync(() => own.delete(link)))
        )
        return yield* restore(Fiber.join(fiber)).pipe(Effect.onInterrupt(() => Fiber.interrupt(fiber)))
      })
    )

  const publish = (process: Process): Driver.Driver["publish"] => (batch) =>
    call(process, "publish", () => {
      for (const outgoing of batch) {
        const refusal = faults.refuses?.(outgoing)
        if (refusal === undefined) continue
        watch.refused?.(process, outgoing)
        return Exit.fail(refusal)
      }
      const done = driver.publish(batch)
      if (!Exit.isExit(done)) return Effect.tap(done, () => Effect.sync(() => watch.published?.(process, batch)))
      if (done._tag === "Success") watch.published?.(process, batch)
      return done
    })

  return {
    faults,
    connect: (process, capabilities) => ({
      ...driver,
      capabilities: { ...driver.capabilities, ...capabilities },
      consume: consume(process),
      publish: publish(process),
      declare: (declaration) => Effect.suspend(() => call(process, "declare", () => driver.declare(declaration)))
    }),
    gone: (process) => {
      for (const { fiber, far: scope } of links.get(process) ?? []) {
        far.fork(Effect.andThen(Fiber.interrupt(fiber), Scope.close(scope, Exit.void)))
      }
      links.delete(process)
      for (const die of deaths.get(process)?.splice(0) ?? []) die()
    }
  }
}

/** The place of a message as text: `partition/position`. */
export const place = (message: Message<unknown>): string => `${message.partition}/${message.position}`
