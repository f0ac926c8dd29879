"""The command `completion`: a script by which bash or zsh completes the commands and options of `rfnext`."""

from argparse import ArgumentParser, Namespace

SHELLS = ("bash", "zsh")

_SCRIPT = """\
_rfnext() {{
    local current=${{COMP_WORDS[COMP_CWORD]}} words=""
    if [[ $COMP_CWORD = 1 ]]; then
        COMPREPLY=($(compgen -W "{commands}" -- "$current"))
        return
    fi
    case "${{COMP_WORDS[COMP_CWORD - 1]}} ${{COMP_WORDS[1]}}" in
{cases}
    esac
    COMPREPLY=($(compgen -W "$words" -- "$current") $(compgen -f -- "$current"))
}}
complete -o filenames -F _rfnext rfnext
"""


def run_completion(given: Namespace) -> str:
    """The script for a shell; it is fixed, so completing imports nothing."""
    return ("autoload -U +X bashcompinit && bashcompinit\n" if given.shell == "zsh" else "") + script(given.parsers)


def script(parsers: dict[str, ArgumentParser]) -> str:
    """The script for bash, of the parser of every command."""
    values, options = {}, {}
    for command, parser in parsers.items():
        words = []
        for action in parser._actions:
            choices = list(map(str, action.choices or ()))
            words += action.option_strings or choices
            values |= {option: choices for option in action.option_strings if choices}
        options[command] = words
    # Most particular first: what an option takes, then what a command takes.
    cases = [(f'"{option} "*', words) for option, words in values.items()]
    cases += [(f'*" {command}"', words) for command, words in options.items()]
    lines = [f'        {pattern}) words="{" ".join(words)}" ;;' for pattern, words in cases]
    return _SCRIPT.format(commands=" ".join(parsers), cases="\n".join(lines)).rstrip()
