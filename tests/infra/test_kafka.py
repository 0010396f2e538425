"""One file of client properties for two clients; what only one of them could use is refused by its rule."""

import pytest

from lib.infra import kafka
from lib.infra.kafka import PropertiesError

LOGIN = {
    "security.protocol": "SASL_SSL",
    "sasl.mechanism": "PLAIN",
    "sasl.jaas.config": 'm required username="ada" password="opensesame";',
}


def test_a_file_is_read_as_java_reads_it(tmp_path):
    path = tmp_path / "client.properties"
    path.write_text(
        '# a comment\n! another\n\n a = b=c \nlong=one, \\\n    two\nback=\\\\\nletter=\\u00e9\\t\\"\n',
        encoding="utf-8",
    )
    assert kafka.read_properties(path) == {"a": "b=c", "long": "one, two", "back": "\\", "letter": 'é\t"'}
    assert kafka.read_properties(None) == {}


def test_a_file_that_is_not_there_and_a_line_that_is_none_are_told(tmp_path):
    with pytest.raises(
        PropertiesError, match="KAFKA_PROPERTIES must be a readable file. Got .*none.properties"
    ):
        kafka.read_properties(tmp_path / "none.properties")
    path = tmp_path / "client.properties"
    path.write_text('sasl.jaas.config username="ada" password="opensesame";\n'.replace("=", ":"))
    with pytest.raises(PropertiesError, match="must be name=value. Got 'sasl.jaas.config'") as told:
        kafka.read_properties(path)
    assert "opensesame" not in str(told.value)


@pytest.mark.parametrize(
    "login",
    [
        'm required username="ada" password="opensesame";',
        "m required\n username=ada password=opensesame;",
        'm required password = "opensesame" username = "ada";',
    ],
)
def test_user_and_password_are_found_in_what_java_s_module_is_told(login):
    options = kafka.for_python({**LOGIN, "sasl.jaas.config": login})
    assert (options["sasl_plain_username"], options["sasl_plain_password"]) == ("ada", "opensesame")


def test_certificates_are_files_and_a_store_holds_the_chain_and_the_key(tmp_path):
    store = tmp_path / "me.pem"
    store.touch()
    found = kafka.for_python(
        {
            "security.protocol": "SSL",
            "ssl.keystore.type": "PEM",
            "ssl.keystore.location": str(store),
            "ssl.key.password": "opensesame",
            "ssl.endpoint.identification.algorithm": "",
        }
    )
    assert found == {
        "security_protocol": "SSL",
        "ssl_certfile": str(store),
        "ssl_keyfile": str(store),
        "ssl_password": "opensesame",
        "ssl_check_hostname": False,
    }


@pytest.mark.parametrize(
    ("more", "rule"),
    [
        ({"sasl.mechanism": "OAUTHBEARER"}, "sasl.mechanism must be .*PLAIN.* Got 'OAUTHBEARER'"),
        ({"sasl.jaas.config": 'm required username="ada";'}, "Got none that can be read: password"),
        ({"sasl.jaas.config": ""}, "Got none that can be read: username and password"),
        ({"ssl.truststore.location": "ca.jks"}, "ssl.truststore.type must be PEM.* Got 'nothing'"),
        (
            {"ssl.truststore.location": "no/ca.pem", "ssl.truststore.type": "PEM"},
            "ssl.truststore.location must be a readable file. Got 'no/ca.pem'",
        ),
        ({"ssl.truststore.certificates": "-----BEGIN"}, "must be in PEM files.*ssl.truststore.certificates"),
    ],
)
def test_what_one_of_the_clients_cannot_use_is_refused_by_its_rule(more, rule):
    with pytest.raises(PropertiesError, match=rule) as told:
        kafka.for_python({**LOGIN, **more})
    assert "opensesame" not in str(told.value)
